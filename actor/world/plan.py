"""Which tasks a world has: scenarios, supervisors and drafts, by data set. Runs in AppWorld's virtualenv too.

Flows in: the cast, a seed, sizes. Flows out: `Planned` tasks, not yet written.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from actor.world.people import Cast, Person
from actor.world.scenarios import CHALLENGE, TRAIN, UNSEEN
from actor.world.scenarios.form import Draft, Scenario, Setting

DATASETS = ("train", "dev", "test_normal", "test_challenge")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One task to write: its id, data set, scenario, supervisor and draft."""

    task_id: str
    dataset: str
    scenario: Scenario
    me: Person
    draft: Draft


def plan(cast: Cast, seed: int, sizes: dict[str, int]) -> list[Planned]:
    """Every task of a world, a pure function of its arguments. No two share supervisor, instruction and answer.

    `sizes`: tasks per scenario, e.g. {"train": 12, "dev": 2, "test_normal": 3, "unseen": 6, "test_challenge": 6}, where
    the unseen ones are scenarios of test_normal that training never saw.
    """
    seen = [(name, sizes[name]) for name in ("train", "dev", "test_normal")]
    tasks: list[Planned] = []
    for scenarios, counts in (
        (TRAIN, seen),
        (UNSEEN, [("test_normal", sizes["unseen"])]),
        (CHALLENGE, [("test_challenge", sizes["test_challenge"])]),
    ):
        for scenario in scenarios:
            drafts = _drafts(cast, scenario, seed)
            datasets = [name for name, count in counts for _ in range(count)]
            for number, dataset in enumerate(datasets, start=1):
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
        draft = scenario.draft(rng, Setting(me=me, friends=friends, songs=cast.songs, products=cast.products))
        key = (me.id, scenario.say(draft), draft.answer)
        if key not in seen:
            seen.add(key)
            yield me, draft
