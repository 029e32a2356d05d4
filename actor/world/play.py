"""Noisy demonstrations, played in the real engine. Runs in AppWorld's virtualenv.

    PYTHONHASHSEED=0 PYTHON -m actor.world.play ROOT OUT '{"count": 2000, "seed": 1, "workers": 2, "grade": false}'

Flows in: a data root and how many. Flows out: JSON lines in OUT, and progress as JSON lines on standard output. Only
train tasks are played. Options are drawn at random; what is observed is what the engine says, tracebacks too.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actor.world import engine, grade, rehearse
from actor.world.scenarios import TRAIN
from actor.world.scenarios.form import GIVE_UP, SEEN, Scenario
from actor.world.share import in_child, say, share

STOP_EARLY = 0.08  # share of episodes that give up before their end
TRY_AGAIN = 0.45  # share of failed cells that are tried again, with the right options; else the episode is given up
# Share of episodes with one more turn of each kind. All are short, so that a small policy's episodes stay short.
SLIPS = 0.02  # a cell forgets its access token, which raises, and is run again with it
LOOKS = 0.02  # what is there already is printed and looked at
LOOK_UPS = 0.02  # the documentation of the next API is asked for its parameters
TOKEN = re.compile(r", access_token=t\b|\baccess_token=t, ")
API = re.compile(r"apis\.(\w+)\.(\w+)\(")
MOST_TURNS = 7
COLLECT_EVERY = 32  # tasks between two full collections


@dataclass(frozen=True, kw_only=True)
class Performance:
    """One demonstration to play: its task, and the seed of its draws."""

    task_id: str
    seed: str


class Improviser:
    """Decides the cells of one demonstration as it goes."""

    def __init__(self, scenario: Scenario, values: Mapping[str, str], rng: random.Random) -> None:
        self.scenario, self.values, self.rng = scenario, values, rng
        self.options = scenario.drawn(rng)
        self.right = self.options == scenario.right()
        self.stop_at = rng.randrange(len(scenario.cells)) if rng.random() < STOP_EARLY else None
        extras = {"slip": SLIPS, "look": LOOKS, "look up": LOOK_UPS}
        drawn = rng.choices([*extras, None], [*extras.values(), 1 - sum(extras.values())])[0]
        self.extra_at = rng.randrange(1, len(scenario.cells))
        copies = f"${SEEN}" in scenario.cells[self.extra_at]  # what it saw, so nothing may come between
        self.extra = None if copies or len(scenario.cells) > MOST_TURNS - 3 else drawn
        self.position = 0
        self.over = False

    def next_cell(self, turn: int, seen: str) -> str | None:
        """The code of the next turn, or None at the end. `seen` is what the last one printed."""
        if self.over or turn == MOST_TURNS:
            return None
        if turn and seen.startswith(rehearse.FAILED):
            if self.extra == "slipped":
                self.extra = None
            elif self.rng.random() < TRY_AGAIN:
                self.options = self.scenario.right()
            else:
                return self._give_up()
            self.right = False
            self.position -= 1
        if self.position == self.stop_at or turn == MOST_TURNS - 1:
            return self._give_up()
        code = self.scenario.code(self.position, self.options, self.values, seen)
        if self.position == self.extra_at and (more := self._more(code)) is not None:
            return more
        self.position += 1
        self.over = self.position == len(self.scenario.cells)
        return code

    def _more(self, code: str) -> str | None:
        """The cell of one more turn before `code`, or None where none is drawn or none fits."""
        drawn, self.extra = self.extra, None
        called = API.search(code)
        if drawn == "slip" and TOKEN.search(code):
            self.extra = "slipped"
            self.position += 1  # it counts as this cell, which is tried again
            return TOKEN.sub("", code, count=1)
        if drawn == "look" and self.scenario.cells[0].startswith("pw = "):
            return "print(*pw)"
        if drawn == "look up" and called is not None:
            doc = f"apis.api_docs.show_api_doc(app_name='{called[1]}', api_name='{called[2]}')"
            return f"print(*[p['name'] for p in {doc}['parameters']])"
        return None

    def _give_up(self) -> str:
        self.over, self.right = True, False
        return GIVE_UP


def play(root: Path, out: Path, *, count: int, seed: int, workers: int, grade: bool) -> None:
    """Plays `count` demonstrations, spread evenly over the train tasks, and writes them in a random order."""
    data = root / "full" / "data"
    task_ids = (data / "datasets" / "train.txt").read_text().split()
    share_of = {task_id: count // len(task_ids) for task_id in task_ids}
    rng = random.Random(f"order {seed}")  # noqa: S311 - invented data, not secrets
    for task_id in rng.sample(task_ids, count % len(task_ids)):
        share_of[task_id] += 1
    jobs = [(task_id, [f"{seed} {task_id} {n}" for n in range(plays)]) for task_id, plays in share_of.items() if plays]
    played = in_child(lambda: _play_all(data, jobs, workers))
    if grade:
        graded = in_child(lambda: _grade_all(jobs, played, workers))
        for records, verdicts in zip(played, graded, strict=True):
            for record, verdict in zip(records, verdicts, strict=True):
                record["success"] = verdict
    lines = [record for records in played for record in records]
    rng.shuffle(lines)
    with tempfile.NamedTemporaryFile("w", dir=out.parent, delete=False) as file:
        for record in lines:
            record.pop("changes")
            file.write(json.dumps(record) + "\n")
    os.chmod(file.name, 0o644)  # noqa: PTH101 - no secret: the run's other processes read it
    Path(file.name).replace(out)
    say("demonstrations_written", count=len(lines), right=sum(record["right"] for record in lines))


def _play_all(data: Path, jobs: Sequence[tuple[str, list[str]]], workers: int) -> list[list[dict[str, Any]]]:
    scenarios = {scenario.name: scenario for scenario in TRAIN}
    rehearse.warm_engine(jobs[0][0])
    opened = itertools.count(1)

    def play_task(job: tuple[str, list[str]]) -> list[dict[str, Any]]:
        task_id, seeds = job
        if next(opened) % COLLECT_EVERY == 0:
            gc.collect()
        folder = data / "tasks" / task_id
        specs = json.loads((folder / "specs.json").read_text())
        values = json.loads((folder / "ground_truth" / "public_data.json").read_text())
        scenario = scenarios[task_id.split("_")[0]]
        template = engine.Template(task_id)
        players = [Improviser(scenario, values, random.Random(seed)) for seed in seeds]  # noqa: S311 - no secrets
        told = {
            "task_id": task_id,
            "scenario": scenario.name,
            "instruction": specs["instruction"],
            "supervisor": specs["supervisor"],
        }
        records = [{**told, **record, "success": None} for record in rehearse.play(template, players)]
        template.close()
        return records

    return share("tasks_demonstrated", jobs, workers, play_task)


def _grade_all(
    jobs: Sequence[tuple[str, list[str]]], played: Sequence[list[dict[str, Any]]], workers: int
) -> list[list[bool]]:
    engine.accelerate_grading()
    grade.quicken_switches()

    def verdicts(item: tuple[str, list[dict[str, Any]]]) -> list[bool]:
        task_id, records = item
        graded = grade.GradedTask(task_id)
        found = [bool(graded.grade(record["changes"])["success"]) for record in records]
        graded.close()
        return found

    items = [(task_id, records) for (task_id, _), records in zip(jobs, played, strict=True)]
    return share("demonstrations_graded", items, workers, verdicts)


def main(argv: Sequence[str]) -> int:
    root, out, arguments = Path(argv[0]), Path(argv[1]), json.loads(argv[2])
    with tempfile.TemporaryDirectory() as scratch:
        engine.set_paths(root / "full", Path(scratch))
        try:
            play(root, out, **arguments)
        except RuntimeError as error:
            say("failed", reason=str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
