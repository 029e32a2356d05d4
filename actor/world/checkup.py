"""`loop world check`: all of a data root for a person: every file of every task, and an engine that starts on it.

Flows in: a data root. Flows out: facts; under `problems` one line for each thing that is wrong.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from actor.world.check import list_problems, root_problems, task_problems
from actor.world.client import WorldHost
from actor.world.config import WorldConfig
from actor.world.install import appworld_python
from actor.world.root import DATASETS, check_root, dataset_ids, is_official
from actor.world_protocol import WorldFailure
from common.errors import RunError, UsageError

LOOK = "print(apis.supervisor.show_profile())"


def look_at(root: Path) -> dict[str, Any]:
    """Everything that can be said of a root without playing its tasks; the engine only where its files are whole."""
    check_root(root)
    task_ids = sorted(path.name for path in (root / "full" / "data" / "tasks").iterdir() if path.is_dir())
    problems = [*root_problems(root), *list_problems(root), *task_problems(root, task_ids)]
    facts: dict[str, Any] = {
        "root": str(root),
        "official": is_official(root),
        "tasks": len(task_ids),
        "scenarios": len({task_id.split("_")[0] for task_id in task_ids}),
        "problems": problems,
    }
    if not problems:
        facts["engine"] = asyncio.run(_try_engine(root, problems))
    return facts


def say(facts: dict[str, Any]) -> str:
    """The facts as a person reads them."""
    kind = "AppWorld's own data" if facts["official"] else "a built world"
    head = f"{facts['root']}: {kind}, {facts['tasks']} tasks of {facts['scenarios']} scenarios"
    if facts["problems"]:
        return "\n".join([head, *(f"  {problem}" for problem in facts["problems"])])
    engine = facts["engine"]
    played, guards = ", ".join(engine["played"]), ", ".join(engine["guards"])
    tried = f"the engine starts in {engine['seconds']} s; played and graded: {played}; guards: {guards}"
    return f"{head}, all files whole\n{tried}"


async def _try_engine(root: Path, problems: list[str]) -> dict[str, Any]:
    """Opens the first task of each data set, looks around in it, grades that nothing was done."""
    began = time.monotonic()
    try:
        host = await WorldHost.start(WorldConfig(), appworld_python(), root)
    except (RunError, UsageError) as error:
        problems.append(str(error))
        return {}
    seconds, played = round(time.monotonic() - began, 1), []
    try:
        lists = sorted(path.stem for path in (root / "full" / "data" / "datasets").glob("*.txt"))
        for name in sorted(lists, key=lambda name: DATASETS.index(name) if name in DATASETS else len(DATASETS)):
            task_id = dataset_ids(root, name)[0]
            try:
                problems += await _try_task(host, task_id)
            except WorldFailure as error:
                problems.append(f"{task_id}: {error}")
            played.append(task_id)
    finally:
        await host.close()
    return {"seconds": seconds, "played": played, "guards": list(host.guards)}


async def _try_task(host: WorldHost, task_id: str) -> list[str]:
    world = await host.open(task_id)
    try:
        seen = await world.execute(LOOK)
        if seen.failed:
            return [f"{task_id}: {LOOK} fails: {seen.text.strip().splitlines()[-1]}"]
        verdict = await world.grade()
    finally:
        await world.close()
    return [f"{task_id}: whoever does nothing succeeds"] if verdict.success else []
