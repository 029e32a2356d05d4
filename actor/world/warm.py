"""Warms a process that will fork worlds: calls every API of the supervisor's apps once, on a world thrown away.

What is computed once and kept (compiled SQL, validators, imports, word forms) is then there for all members. The
calls should succeed, or they warm little: arguments are taken from what earlier responses called by the same name.
Runs in AppWorld's virtualenv.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator
from typing import Any

from actor.world.engine import Template

ORDER = ("GET", "POST", "PUT", "PATCH", "DELETE")  # look, make, look closer, change, take away
LAST = ("logout", "delete_account", "complete_task")
CELLS = (
    "x = [1]\nprint(x)",
    "import re\nfor i in range(2):\n    print(i)",
    "print(undefined_name)",
    "1 +",
    "print(apis.api_docs.show_api_descriptions(app_name='venmo'))",
)
Known = dict[tuple[str, str], Any]  # app and key -> a value that a response had there
PLAIN = {"integer": 1, "number": 1.0, "boolean": True, "list[string]": ["a"], "list[number]": [1]}


def warm_up(task_id: str) -> None:
    """Opens the task's world, uses it widely, closes it."""
    template = Template(task_id)
    with contextlib.suppress(Exception):
        _call_everything(template.world)
    for cell in CELLS:
        template.execute(cell)
    template.new_changes()
    template.completed()
    template.close()


def _build_validators(apps: Iterable[str]) -> None:
    """The engine derives a class from each model when its first record is created: 15-120 ms a model, then kept."""
    for app in apps:
        for model in importlib.import_module(f"appworld.apps.{app}.models").SQLModel.name_to_model().values():
            with contextlib.suppress(Exception):
                model.validator()


def _call_everything(world: Any) -> None:
    profile = world.requester.request("supervisor", "show_profile")
    known: Known = {}
    tokens = _log_in(world, profile)
    _build_validators(("supervisor", *tokens))
    apis = [
        (app, name, doc)
        for app, docs in world.task.api_docs.items()
        for name, doc in docs.items()
        if app in tokens or app in ("supervisor", "api_docs")
    ]
    later = [entry for entry in apis if entry[1] in LAST]
    for method in (*ORDER, "GET"):
        for app, name, doc in [entry for entry in apis if entry[2]["method"] == method and entry not in later]:
            _call(world, (app, name, doc), known, tokens)
    for app, name, doc in sorted(later, key=lambda entry: LAST.index(entry[1])):
        _call(world, (app, name, doc), known, tokens)


def _call(world: Any, api: tuple[str, str, Any], known: Known, tokens: dict[str, str]) -> None:
    app, name, doc = api
    arguments = {field["name"]: _value(app, field, known) for field in doc["parameters"] if field["required"]}
    if "access_token" in arguments:
        arguments["access_token"] = tokens.get(app, "none")
    with contextlib.suppress(Exception):
        response = world.requester.request(app, name, **arguments)
        own = set(world.task.supervisor.values())
        known.update({(app, key): value for key, value in _named(response) if str(value) not in own})


def _value(app: str, field: dict[str, Any], known: Known) -> Any:
    """What the app last called by this name, or by the last part of it (receiver_email: email); else a plain value."""
    name = field["name"]
    for key in (name, name.split("_", 1)[-1], name.rsplit("_", 1)[-1] if "email" in name else name):
        if (app, key) in known:
            return known[app, key]
    return PLAIN.get(field["type"], "a")


def _named(response: Any) -> Iterator[tuple[str, Any]]:
    """Every plain value of a response with the key that it stands under."""
    if isinstance(response, list):
        for item in response[:3]:
            yield from _named(item)
    elif isinstance(response, dict):
        for key, value in response.items():
            if isinstance(value, list | dict):
                yield from _named(value)
            elif value is not None and key != "message":
                yield key, value


def _log_in(world: Any, profile: dict[str, Any]) -> dict[str, str]:
    tokens = {}
    for account in world.requester.request("supervisor", "show_account_passwords"):
        app, password = account["account_name"], account["password"]
        name = profile["phone_number"] if app == "phone" else profile["email"]
        with contextlib.suppress(Exception):
            tokens[app] = world.requester.request(app, "login", username=name, password=password)["access_token"]
    return tokens
