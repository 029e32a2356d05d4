"""Makes a whole world below a new folder: base, tasks, verification. Runs in AppWorld's virtualenv.

    PYTHONHASHSEED=0 PYTHON -m actor.world.generate FOLDER '{"seed": 1, ...}'

Flows in: a folder that exists and is empty, the arguments as JSON. Flows out: `FOLDER/full/data` and JSON lines of
progress on standard output, e.g. {"event": "tasks_graded", "done": 50, "of": 560, "seconds": 41.2}. Each task is
verified through the engine: the reference solution passes; a no-op and damage beside it fail.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from actor.world import engine, people, task_files, verify, ways
from actor.world.plan import DATASETS, Planned, plan
from actor.world.share import say, share


def generate(folder: Path, seed: int, sizes: dict[str, int], workers: int) -> None:
    """Writes and verifies the world. Raises RuntimeError with one line when a task is not as it must be."""
    cast = people.make_cast(seed)
    data = folder / "full" / "data"
    data.mkdir(parents=True)
    base = task_files.write_base(data, cast)
    tasks = plan(cast, seed, sizes)
    datasets = {name: [task.task_id for task in tasks if task.dataset == name] for name in DATASETS}
    task_files.write_datasets(data, datasets)

    def write(task: Planned) -> None:
        task_files.write_task(data, base, task.task_id, scenario=task.scenario, draft=task.draft, me=task.me)
        ways.store_form(data / "tasks" / task.task_id, task.scenario)

    say("base_written", tasks=len(tasks))
    share("tasks_written", tasks, workers, write)
    for finding in verify.verify(data, [task.task_id for task in tasks], workers, verify.AT_BUILD):
        if (wrong := verify.complaint(finding)) is not None:
            raise RuntimeError(wrong)
        cells = [turn["code"] for turn in finding["trials"][0]["turns"]]
        ways.store_solution(data / "tasks" / finding["task_id"], cells)
    say("world_written", tasks=len(tasks))


def main(argv: Sequence[str]) -> int:
    folder, arguments = Path(argv[0]), json.loads(argv[1])
    scratch = folder / "scratch"
    scratch.mkdir()
    engine.set_paths(folder / "full", scratch)
    try:
        generate(folder, arguments["seed"], arguments["sizes"], arguments["workers"])
    except RuntimeError as error:
        say("failed", reason=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
