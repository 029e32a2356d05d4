"""Episodes that try a world widely: its reference solutions, wrong ones, and nearly every API with odd arguments."""

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
    "def f(n):\n    return f(n + 1)\nf(0)",
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
    return json.loads((root / "full" / "data" / "tasks" / task_id / "ground_truth" / "solution.json").read_text())["cells"]


def api_cells(root: Path, variants: int) -> list[str]:
    """One cell per app and variant: each of the app's APIs is called with odd arguments of the right number."""
    cells = []
    for file in sorted((root / "episode" / "data" / "api_docs" / "standard").glob("*.json")):
        app, apis = file.stem, json.loads(file.read_text())
        for variant in range(variants):
            calls = [(name, arguments(doc, variant)) for name, doc in apis.items() if name != "delete_account"]
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
            odd = ODD.get(field["type"].split("[")[0].split("(")[0].strip(), ODD["string"])
            chosen[field["name"]] = odd[(variant + (position if variant else 0)) % len(odd)]
    return chosen


def episodes(root: Path, task_ids: list[str], variants: int) -> list[dict]:
    """Right, wrong (the last cell but one is left out), no-op, collateral damage; then the wide ones."""
    found = []
    for task_id in task_ids:
        cells = reference(root, task_id)
        harm = LOG_IN + "print(apis.venmo.add_friend(user_email='bela@example.org', access_token=tokens['venmo']))"
        for chosen in (cells, [*cells[:-2], cells[-1]], ["apis.supervisor.complete_task()"], [LOG_IN, harm, *cells], []):
            found.append({"task": task_id, "cells": chosen})
    found.append({"task": task_ids[0], "cells": PLAIN_CELLS})
    for cell in api_cells(root, variants):
        found.append({"task": task_ids[-1], "cells": [LOG_IN, cell, "print(tokens)"]})
    return found
