"""A data root as the actor sees it: which one it is, its task ids, and what an agent is told of each task."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actor.world.build import MARKER, BuildArguments, build, check_world
from actor.world.official import holds_data, how_to_get, view_of
from common.errors import UsageError
from common.log import get_logger

log = get_logger(__name__)
TASK_ID = re.compile(r"[A-Za-z0-9]+_[0-9]+")
DATASETS = ("train", "dev", "test_normal", "test_challenge")
OFFICIAL_CANARY = "appworld:"  # how the mark begins that AppWorld's own tasks bear


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


def choose_root(given: Path | None = None, arguments: BuildArguments | None = None) -> Path:
    """The data root to use: `given`, else what APPWORLD_ROOT names, else the world built here for `arguments`.

    Either may name a root of ours, or a folder with AppWorld's own data, of which a view is made in the cache folder.

    Raises:
        UsageError: the folder that is named is neither; with what is missing and how to get it.
    """
    chosen_by, named = "world.root", given
    if named is None and os.environ.get("APPWORLD_ROOT"):
        chosen_by, named = "APPWORLD_ROOT", Path(os.environ["APPWORLD_ROOT"])
    root = build(arguments or BuildArguments()) if named is None else _root_at(named, chosen_by)
    log.info("data_root", root=str(root), chosen_by=chosen_by if named is not None else "default: the built world")
    return root


def _root_at(named: Path, chosen_by: str) -> Path:
    folder = named.expanduser().absolute()
    if (folder / MARKER).exists():
        return check_world(folder)
    if holds_data(folder):
        return view_of(folder)
    raise UsageError(
        f"{folder} is not a data root ({chosen_by}): it has neither {MARKER}, as what 'loop world build' makes, "
        f"nor data/, as AppWorld's own; {how_to_get()}"
    )


def is_official(root: Path) -> bool:
    """Whether a root is of AppWorld's own data: their tasks bear its mark."""
    task_id = next(iter(sorted(path.name for path in (root / "episode" / "data" / "tasks").iterdir())), "")
    try:
        specs = _json(root / "episode" / "data" / "tasks" / task_id / "specs.json")
    except (OSError, ValueError):
        return False
    return isinstance(specs, dict) and str(specs.get("canary_string", "")).startswith(OFFICIAL_CANARY)


def dataset_ids(root: Path, name: str, difficulties: Collection[int] | None = None) -> list[str]:
    """The task ids of a data set in the order of its list; with `difficulties`, only tasks that have one of them.

    Raises:
        UsageError: no such data set, a list that is empty or has malformed or double ids, no task of the difficulties.
    """
    folder = root / "full" / "data" / "datasets"
    file = folder / f"{name}.txt"
    if "/" in name or not file.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.txt"))) or "none"
        raise UsageError(f"the data root {root} has no data set '{name}'; it has {known}")
    ids = listed(file)
    if not ids:
        raise UsageError(f"{file}: lists no task")
    for task_id, count in Counter(ids).items():
        if not TASK_ID.fullmatch(task_id):
            raise UsageError(f"{file}: '{task_id[:100]}' is not a task id, such as likeSong_3")
        if count > 1:
            raise UsageError(f"{file}: lists {task_id} more than once")
    if difficulties is None:
        return ids
    chosen = [task_id for task_id in ids if difficulty_of(root, task_id) in difficulties]
    if not chosen:
        wanted = ", ".join(map(str, sorted(difficulties)))
        raise UsageError(f"no task of data set '{name}' of {root} has difficulty {wanted}")
    return chosen


def listed(file: Path) -> list[str]:
    """What a data set's file lists, as it stands there but for the tags that AppWorld allows: "82e2fac_1:tag"."""
    lines = [line.partition(":")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def difficulty_of(root: Path, task_id: str) -> int:
    """A task's difficulty, 1 to 3. Raises UsageError for a task that the root does not have, or not whole."""
    file = root / "full" / "data" / "tasks" / task_id / "ground_truth" / "metadata.json"
    if not TASK_ID.fullmatch(task_id) or not file.parents[1].is_dir():
        raise UsageError(f"the data root {root} has no task '{task_id}'")
    try:
        return int(_json(file)["difficulty"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: has no difficulty of the task: {error!r}") from None


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
        specs = _json(path)
        person = {name: str(specs["supervisor"][name]) for name in ("first_name", "last_name", "email", "phone_number")}
        return TaskText(task_id, instruction=specs["instruction"], datetime=specs["datetime"], **person)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a task's specification: {error!r}") from error


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
