"""Episodes that try a world widely: solutions, wrong ones, odd cells, every API with odd and with likely values.

None of an app's documented APIs is left out. Not called are only the engine's own routes without an app (they load
other databases, write files or move the clock): our members refuse them, see test_grading.
"""

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
ENDING = ("logout", "delete_account")  # last of all: what follows them can do little
ORDER = ("GET", "POST", "PUT", "PATCH", "GET", "DELETE")  # look, make, change, look again, take away
LOG_IN = """
me = apis.supervisor.show_profile()
fresh = {}
for account in apis.supervisor.show_account_passwords():
    app = account["account_name"]
    name = me["phone_number"] if app == "phone" else me["email"]
    fresh[app] = apis[app].login(username=name, password=account["password"])["access_token"]
tokens = fresh
print(tokens)
"""
CALL = """
known = {}
plain = {"integer": 1, "number": 1.0, "boolean": True, "list[string]": ["a"], "list[number]": [1]}

def learn(app, value):
    for item in value[:3] if isinstance(value, list) else ():
        learn(app, item)
    for key, found in value.items() if isinstance(value, dict) else ():
        if isinstance(found, (list, dict)):
            learn(app, found)
        elif found is not None and key != "message":
            known[app, key] = found

def likely(app, name, kind):
    for key in (name, name.split("_", 1)[-1], name.rsplit("_", 1)[-1] if "email" in name else name):
        if (app, key) in known:
            return known[app, key]
    return plain.get(kind, "a")

def call(app, name, arguments):
    if "access_token" in arguments:
        arguments["access_token"] = tokens.get(app, "x")
    try:
        answer = apis[app][name](**arguments)
        learn(app, answer)
        text = str(answer)
    except Exception as error:
        text = f"{type(error).__module__} {type(error).__name__} {error}"
    print(f"{app}.{name}", len(text), hash(text), text[:300])
"""
CHANCE = [
    "import random\nprint(random.random(), random.gauss(0, 1))",
    "print(random.choice(range(10**6)), apis.supervisor.show_profile()['email'], random.random())",
    LOG_IN + "print(random.gauss(0, 1), random.random())",
    "print(random.sample(range(99), 5), random.betavariate(1, 2), sum(random.getstate()[1]))",
    "random.seed(7)\nprint(random.random())",
    LOG_IN,
    "print(random.random())",
    "random = random.Random(3)\nprint(random.random())\n1/0",
    "print(random.random(), datetime.datetime.now())",
]
PLAIN_CELLS = [
    "print(sorted(globals()), sorted(vars(builtins)))",
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


def api_docs(root: Path) -> dict[str, dict]:
    """App -> API -> its documentation."""
    files = sorted((root / "episode" / "data" / "api_docs" / "standard").glob("*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}


def odd_cells(root: Path, variant: int) -> list[str]:
    """One cell per app: each of its APIs is called with odd arguments of the right number."""
    cells = []
    for app, apis in api_docs(root).items():
        calls = [(name, arguments(doc, variant)) for name, doc in apis.items() if name not in ENDING]
        cells.append(f"for name, arguments in {calls!r}:\n    call({app!r}, name, arguments)")
    return cells


def out(root: Path) -> str:
    """Every app's logout and delete_account: without a token, with one, and again; what is left to see then."""
    apps = [app for app, apis in api_docs(root).items() if "logout" in apis]
    return (
        f"for name in {ENDING!r}:\n"
        f"    for app in {apps!r}:\n"
        "        for given in ({}, {'access_token': ''}, {'access_token': ''}):\n"
        "            call(app, name, given)\n"
        "        call(app, 'show_account', {'access_token': ''})\n"
    )


def likely_cells(root: Path, variant: int) -> list[str]:
    """One cell per app and method: arguments are what the app called by their names before; most calls succeed."""
    cells = []
    for method in ORDER:
        for app, apis in api_docs(root).items():
            calls = [(name, likely(doc, variant)) for name, doc in apis.items() if doc["method"] == method]
            calls = [entry for entry in calls if entry[0] not in (*ENDING, "complete_task")]
            cells.append(
                f"for name, fields in {calls!r}:\n"
                f"    call({app!r}, name, {{field: likely({app!r}, field, kind) for field, kind in fields}})"
            )
    return cells


def likely(doc, variant):
    """Names and types of the arguments to give: the required ones, and by `variant` some of the others."""
    fields = enumerate(doc["parameters"])
    return [(field["name"], field["type"]) for at, field in fields if field["required"] or (at + variant) % 3 == 0]


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


def plain(task_id: str) -> list[dict]:
    """Cells of all kinds; random numbers across turns, with and without calls between them."""
    return [{"task": task_id, "cells": PLAIN_CELLS}, {"task": task_id, "cells": CHANCE}]


def every_api(root: Path, task_id: str, variants: range) -> list[dict]:
    """Two episodes a variant: every API with odd arguments, and with likely ones, which change the data."""
    start = [LOG_IN, CALL]
    odd = [[*start, *odd_cells(root, variant), LOG_IN, out(root), LOG_IN] for variant in variants]
    likely = [[*start, *likely_cells(root, variant), LOG_IN, out(root), LOG_IN] for variant in variants]
    return [{"task": task_id, "cells": cells} for cells in (*odd, *likely)]
