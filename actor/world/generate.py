"""Makes a whole world below a new folder: base, tasks, verification. Runs in AppWorld's virtualenv.

    PYTHONHASHSEED=0 PYTHON -m actor.world.generate FOLDER '{"seed": 1, ...}'

Flows in: a folder that exists and is empty, the arguments as JSON. Flows out: `FOLDER/full/data` and JSON lines of
progress on standard output, e.g. {"event": "tasks_verified", "done": 40, "of": 518}. Tasks are shared out between
forked workers; each verifies what it wrote through the engine: the reference solution passes, a no-op fails.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actor.world import engine, people, task_files, verify
from actor.world.people import Cast, Person
from actor.world.scenarios import CHALLENGE, TRAIN
from actor.world.scenarios.form import Draft, Scenario, Setting
from actor.world.share import share

STARTED = time.clock_gettime(time.CLOCK_MONOTONIC)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One task to write: its id, data set, scenario, supervisor and draft."""

    task_id: str
    dataset: str
    scenario: Scenario
    me: Person
    draft: Draft


def plan(cast: Cast, seed: int, sizes: dict[str, int]) -> list[Planned]:
    """Every task of a world, a pure function of its arguments. No two share supervisor, instruction and answer."""
    tasks: list[Planned] = []
    for scenarios, datasets in ((TRAIN, ("train", "dev", "test_normal")), (CHALLENGE, ("test_challenge",))):
        for scenario in scenarios:
            drafts = _drafts(cast, scenario, seed)
            number = 0
            for dataset in datasets:
                for _ in range(sizes[dataset]):
                    number += 1
                    me, draft = next(drafts)
                    task_id = f"{scenario.name}_{number}"
                    tasks.append(Planned(task_id=task_id, dataset=dataset, scenario=scenario, me=me, draft=draft))
    return tasks


def _drafts(cast: Cast, scenario: Scenario, seed: int) -> Iterator[tuple[Person, Draft]]:
    rng = random.Random(f"{seed} {scenario.name}")  # noqa: S311 - invented data, not secrets
    seen: set[tuple[int, str, str | None]] = set()
    while True:
        me = cast.people[rng.randrange(cast.supervisors)]
        friends = tuple(cast.people[number - 1] for number in cast.known[me.id - 1])
        draft = scenario.draft(rng, Setting(me=me, friends=friends, songs=cast.songs))
        key = (me.id, scenario.say(draft), draft.answer)
        if key not in seen:
            seen.add(key)
            yield me, draft


def say(event: str, **fields: Any) -> None:
    """One line of progress for the process that started this one."""
    elapsed = round(time.clock_gettime(time.CLOCK_MONOTONIC) - STARTED, 1)  # an open world freezes the other clocks
    print(json.dumps({"event": event, **fields, "seconds": elapsed}), flush=True)  # noqa: T201 - standard output is the channel


def generate(folder: Path, seed: int, sizes: dict[str, int], workers: int) -> None:
    """Writes and verifies the world. Raises RuntimeError with one line when a task is not as it must be."""
    cast = people.make_cast(seed)
    data = folder / "full" / "data"
    data.mkdir(parents=True)
    base = task_files.write_base(data, cast)
    tasks = plan(cast, seed, sizes)
    datasets = {name: [task.task_id for task in tasks if task.dataset == name] for name in sizes}
    task_files.write_datasets(data, datasets)

    def write(task: Planned) -> None:
        task_files.write_task(data, base, task.task_id, scenario=task.scenario, draft=task.draft, me=task.me)

    say("base_written", tasks=len(tasks))
    share("tasks_written", tasks, workers, write, say)
    for task, cells in zip(tasks, verify.verify(tasks, workers, say), strict=True):
        verify.store_solution(data / "tasks" / task.task_id, cells)
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
