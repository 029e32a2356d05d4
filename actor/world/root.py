"""A data root as the actor sees it: whether it is one, and what an agent is told of each of its tasks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from common.errors import UsageError

TASK_ID = re.compile(r"[A-Za-z0-9]+_[0-9]+")


@dataclass(frozen=True)
class TaskText:
    """What an agent is told of its task."""

    task_id: str
    instruction: str
    first_name: str
    last_name: str
    email: str
    phone_number: str
    datetime: str


def check_root(root: Path) -> str:
    """Whether this is a data root of ours; a task id of it. Raises UsageError that names what is missing."""
    if "memory" in str(root):
        raise UsageError(f"the engine takes a path with 'memory' in it for no path at all: move the data root {root}")
    for part in ("full", "episode"):
        for inner in ("api_docs", "base_dbs", "datasets", "tasks"):
            if not (root / part / "data" / inner).is_dir():
                raise UsageError(f"{root} is not a data root: {part}/data/{inner} is missing; run `loop world build`")
    tasks = sorted(
        path.name for path in (root / "episode" / "data" / "tasks").iterdir() if TASK_ID.fullmatch(path.name)
    )
    if not tasks:
        raise UsageError(f"{root} is not a data root: episode/data/tasks holds no task; run `loop world build`")
    if any((root / "episode" / "data" / "tasks").glob("*/ground_truth")):
        raise UsageError(
            f"{root}/episode holds ground truth, which episodes must not see; run `loop world build` again"
        )
    return tasks[0]


def read_task(root: Path, task_id: str) -> TaskText:
    """What an agent is told of a task. Raises UsageError for a task that the root does not have."""
    path = root / "episode" / "data" / "tasks" / task_id / "specs.json"
    if not TASK_ID.fullmatch(task_id) or not path.is_file():
        raise UsageError(f"the data root {root} has no task {task_id!r}")
    try:
        specs = json.loads(path.read_text(encoding="utf-8"))
        person = {name: str(specs["supervisor"][name]) for name in ("first_name", "last_name", "email", "phone_number")}
        return TaskText(task_id, instruction=specs["instruction"], datetime=specs["datetime"], **person)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a task's specification: {error!r}") from error
