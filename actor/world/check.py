"""Whether a data root and its tasks are whole, before anything is played: files, their form, versions.

Flows in: a data root and task ids. Flows out: nothing, or one line for each thing that is wrong: what, where, what to
do. A thousand tasks take about a second, so an actor does it at its start. `loop world check` does it for all tasks.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

from actor.world.root import TASK_ID, listed
from common.errors import UsageError

DATA_VERSION = "0.1.0"  # of data that the installed engine takes (its DB_VERSION)
APPS_WITH_DOCS = (
    *("amazon", "api_docs", "file_system", "gmail", "phone", "simple_note"),
    *("splitwise", "spotify", "supervisor", "todoist", "venmo"),
)
APPS = ("admin", *APPS_WITH_DOCS)
TRUTH = ("answer", "metadata", "private_data", "public_data", "test_data")  # JSON; evaluation.py beside them
PERSON = ("first_name", "last_name", "email", "phone_number")
SQLITE = b"SQLite format 3\0"
SHOWN = 5  # tasks that a message names


class Problem(Exception):  # noqa: N818 - what is wrong with one thing, not how this program fails
    """One line: what is wrong, and where."""


def check_tasks(root: Path, task_ids: Sequence[str]) -> None:
    """Whether these tasks of a root can be played and graded. Raises UsageError for the root, or the first tasks."""
    for problem in root_problems(root):
        raise UsageError(f"the data root {root} cannot be used: {problem}; {_advice(root)}")
    found = list(task_problems(root, task_ids))
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        named = "; ".join(found[:SHOWN])
        raise UsageError(
            f"{len(found)} of {len(task_ids)} tasks cannot be used on the data root {root}: {named}{more}. "
            f"Are the lists of task ids and the root (--world.root, APPWORLD_ROOT) of the same world? {_advice(root)}"
        )


def root_problems(root: Path) -> Iterator[str]:
    """What is wrong with what all tasks share."""
    for side in ("full", "episode"):
        data = root / side / "data"
        version = data / "version.txt"
        if version.is_file() and (said := version.read_text(encoding="utf-8").strip()) != DATA_VERSION:
            yield f"{version} says version {said}, the engine takes {DATA_VERSION}"
        for app in APPS:
            file = data / "base_dbs" / f"{app}.db"
            if not file.is_file():
                yield f"{file} is missing"
            elif _begin(file) != SQLITE:
                yield f"{file} is not a database"
        for app in APPS_WITH_DOCS:
            try:
                _check_docs(data / "api_docs" / "standard" / f"{app}.json")
            except Problem as problem:
                yield str(problem)


def list_problems(root: Path) -> Iterator[str]:
    """What is wrong with the lists of task ids, and which tasks stand in none."""
    tasks = {path.name for path in (root / "full" / "data" / "tasks").iterdir() if path.is_dir()}
    for file in sorted((root / "full" / "data" / "datasets").glob("*.txt")):
        ids = listed(file)
        if not ids:
            yield f"{file} lists no task"
        yield from (f"{file} lists {task_id}, which the root does not have" for task_id in ids if task_id not in tasks)
        yield from (f"{file} lists {task_id} more than once" for task_id, count in Counter(ids).items() if count > 1)


def task_problems(root: Path, task_ids: Iterable[str]) -> Iterator[str]:
    """The first thing that is wrong with each of the tasks, for those with which something is."""
    for task_id in task_ids:
        try:
            _check_task(root, task_id)
        except Problem as problem:
            yield f"{task_id[:200]}: {problem}"


def _check_task(root: Path, task_id: str) -> None:
    folder = root / "full" / "data" / "tasks" / task_id
    if not TASK_ID.fullmatch(task_id) or not folder.is_dir():
        raise Problem("the root has no such task")
    played = root / "episode" / "data" / "tasks" / task_id
    specs = _json(played / "specs.json")
    try:
        version = specs["db_version"]
        wanted = [specs["instruction"], specs["datetime"], *(specs["supervisor"][key] for key in PERSON)]
    except (KeyError, TypeError) as error:
        raise Problem(f"{played}/specs.json has no {error}") from None
    if not all(isinstance(value, str) for value in wanted):
        raise Problem(f"{played}/specs.json: instruction, datetime and supervisor must be text")
    if version != DATA_VERSION:
        raise Problem(f"its data are of version {version}, the engine takes {DATA_VERSION}")
    for side in (folder, played):
        names = {path.name for path in (side / "dbs").iterdir()} if (side / "dbs").is_dir() else set()
        for app in APPS:
            if not names & {f"{app}.jsonl", f"{app}.db"}:
                raise Problem(f"{side}/dbs/{app}.jsonl is missing (the engine would open an empty database)")
    _check_truth(folder / "ground_truth")


def _check_truth(truth: Path) -> None:
    """The tests and what they compare with."""
    content = {name: _json(truth / f"{name}.json") for name in TRUTH}
    for name, kind in (("metadata", dict), ("private_data", dict), ("public_data", dict), ("test_data", list)):
        if not isinstance(content[name], kind):
            raise Problem(f"{truth}/{name}.json is not a JSON {'list' if kind is list else 'object'}")
    if not isinstance(content["metadata"].get("difficulty"), int):
        raise Problem(f"{truth}/metadata.json has no difficulty")
    try:
        listed = {test["requirement"] for test in content["test_data"]}
    except (TypeError, KeyError):
        raise Problem(f"{truth}/test_data.json is not a list of requirements") from None
    if not listed:
        raise Problem(f"{truth}/test_data.json lists no requirement: whatever an episode does would succeed")
    tested, all_known = _requirements(truth / "evaluation.py")
    if unlisted := tested - listed:
        raise Problem(f"{truth}/evaluation.py tests {min(unlisted)!r}, which test_data.json does not list")
    if all_known and (untested := listed - tested):
        raise Problem(f"{truth}/test_data.json lists {min(untested)!r}, which evaluation.py does not test")


def _requirements(file: Path) -> tuple[set[str], bool]:
    """The requirements that `with test(...)` names, and whether all of them are plain text."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except OSError as error:
        raise Problem(f"{file}: {error.strerror}") from None
    except (SyntaxError, ValueError) as error:
        raise Problem(f"{file} does not compile: {error}") from None
    if not any(isinstance(node, ast.FunctionDef) and node.name == "evaluate" for node in tree.body):
        raise Problem(f"{file} has no function `evaluate`")
    tests = [
        item.context_expr.args[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        for item in node.items
        if isinstance(item.context_expr, ast.Call)
        and isinstance(item.context_expr.func, ast.Name)
        and item.context_expr.func.id == "test"
        and item.context_expr.args
    ]
    plain = [test.value for test in tests if isinstance(test, ast.Constant) and isinstance(test.value, str)]
    return {dedent(text).strip() for text in plain}, len(plain) == len(tests)


def _check_docs(file: Path) -> None:
    docs = _json(file)
    if not isinstance(docs, dict):
        raise Problem(f"{file} is not a JSON object")
    for name, doc in docs.items():
        for key in ("canary_string", "response_schemas"):
            if key not in doc:
                raise Problem(f"{file}: {name} has no {key}")


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        raise Problem(f"{file} is missing") from None
    except OSError as error:
        raise Problem(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise Problem(f"{file} is not JSON: {error}") from None


def _begin(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(len(SQLITE))


def _advice(root: Path) -> str:
    return f"'loop world check --root {root}' looks at all of it"
