"""Episodes that try a world widely: its reference solutions, wrong ones, odd cells and nearly every API."""

import json
from pathlib import Path

ODD = {
    "string": ["a", "", "ünï ⊗ /../x?y#z%20", "x" * 300],
    "integer": [1, -1, 10**20, "1"],
    "number": [1.0, -2.5, 1e308, "x"],
    "boolean": [True, "maybe", None, 0],
    "list": [[], ["a"], "a", [1, None]],
    "dict": [{}, {"a": 1}, "a", None],
}
ENDING = ("delete_account", "logout")
LOG_IN = """
me = apis.supervisor.show_profile()
tokens = {}
for account in apis.supervisor.show_account_passwords():
    app = account["account_name"]
    name = me["phone_number"] if app == "phone" else me["email"]
    tokens[app] = apis[app].login(username=name, password=account["password"])["access_token"]
print(tokens)
"""
PLAIN_CELLS = [
    "print(1)",
    "x = 1",
    "x",
    "1 +",
    "",
    "print(undefined)",
    "1/0",
    "import subprocess",
    "import os\nprint(os.listdir('/'))",
    "open('x', 'w')",
    "exit()",
    "input()",
    "import sys",
    "raise ValueError('a\\nb')",
    "try:\n    1/0\nexcept Exception as error:\n    raise KeyError('k') from error",
    "import random\nprint(random.random())",
    "print(datetime.datetime.now(), DateTime.now(), pendulum.now())",
    "print([1] * 200)",
    "print({'a': 1}, [2])",
    "%time 1",
    "!ls",
    "print(len(In))",
    "apis.venmo.nothing()",
    "apis.nothing.login()",
    "print(apis.venmo.login())",
    "requester.get('/venmo/')",
    "print(requester.get('/spotify/songs/1', raise_on_failure=False))",
    "print(requester.get('http://x/y', raise_on_failure=False))",
    "print(requester.post('/venmo/auth/token', data={'username': 'a', 'password': 'b'}, raise_on_failure=False))",
    "for i in range(1001):\n    apis.api_docs.show_app_descriptions()",
    "print(set('abcdef'), hash('a'))",
    "import yaml\nprint(yaml.safe_dump({'a': [1]}))",
    "import warnings",
    "from collections import OrderedDict\nprint(OrderedDict(a=1))",
    "async def f():\n    return 1\nprint(await f())",
    "print('no newline', end='')",
    "builtins.print('plain')",
    "import time\nprint(time.time(), time.monotonic())",
    "class A:\n    def __repr__(self):\n        return 'A'\nprint(A())\nA().missing",
]


def reference(root: Path, task_id: str) -> list[str]:
    folder = root / "full" / "data" / "tasks" / task_id / "ground_truth"
    return json.loads((folder / "solution.json").read_text())["cells"]


def api_cells(root: Path, variant: int) -> list[str]:
    """One cell per app: each of its APIs is called with odd arguments of the right number."""
    cells = []
    for file in sorted((root / "episode" / "data" / "api_docs" / "standard").glob("*.json")):
        app, apis = file.stem, json.loads(file.read_text())
        calls = [(name, arguments(doc, variant)) for name, doc in apis.items() if name not in ENDING]
        cells.append(
            f"for name, arguments in {calls!r}:\n"
            f"    if 'access_token' in arguments:\n"
            f"        arguments['access_token'] = tokens.get({app!r}, 'x')\n"
            f"    try:\n"
            f"        print(name, apis.{app}[name](**arguments))\n"
            f"    except Exception as error:\n"
            f"        print(name, type(error).__module__, type(error).__name__, error)\n"
        )
    return cells


def arguments(doc, variant):
    chosen = {}
    for position, field in enumerate(doc["parameters"]):
        if field["required"] or (variant + position) % 2:
            odd = ODD.get(field["type"].split("[")[0].strip(), ODD["string"])
            chosen[field["name"]] = odd[(variant + (position if variant else 0)) % len(odd)]
    return chosen


def solved(root: Path, task_id: str) -> list[dict]:
    """Right; wrong, without the cell before the last; no-op; with collateral damage; nothing at all."""
    cells = reference(root, task_id)
    harm = "print(apis.simple_note.create_note(title='t', content='c', access_token=tokens['simple_note']))"
    plays = (cells, [*cells[:-2], cells[-1]], ["apis.supervisor.complete_task()"], [LOG_IN, harm, *cells], [])
    return [{"task": task_id, "cells": chosen} for chosen in plays]


def odd(root: Path, task_id: str, variants: range) -> list[dict]:
    """Cells of all kinds, and nearly every API once per variant."""
    out = "for app in tokens:\n    print(apis[app].logout(access_token=tokens[app]))"
    wide = [{"task": task_id, "cells": [LOG_IN, *api_cells(root, variant), LOG_IN, out, out]} for variant in variants]
    return [{"task": task_id, "cells": PLAIN_CELLS}, *wide]
