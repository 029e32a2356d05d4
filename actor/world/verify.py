"""Verifies tasks through the engine: plays them in forked worlds, grades what was left. Runs in AppWorld's virtualenv.

Flows in: planned tasks whose folders are written. Flows out: the reference solution of each as it was played, or a
RuntimeError for the first task whose reference solution does not pass or of which a no-op passes a test.
Playing and grading patch the engine differently, so each is a process of its own.
"""

from __future__ import annotations

import gc
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from actor.world import engine, grade, warm
from actor.world.plan import Planned
from actor.world.share import in_child, share

COLLECT_EVERY = 32  # tasks between two full collections
NO_OP = "apis.supervisor.complete_task()"


def verify(tasks: Sequence[Planned], workers: int) -> list[list[str]]:
    """The reference solution's cells of every task. RuntimeError names a task that is not as it must be."""
    played = in_child(lambda: _play_all(tasks, workers))
    graded = in_child(lambda: _grade_all(tasks, played, workers))
    for task, play, (reference, *no_ops) in zip(tasks, played, graded, strict=True):
        if not reference["success"]:
            failed = [failure["requirement"] for failure in reference["failures"]]
            seen = [turn["observation"] for turn in play["turns"]]
            raise RuntimeError(f"the reference solution of {task.task_id} fails {failed}; it observed {seen}"[:2000])
        for verdict in no_ops:
            if verdict["passes"]:
                earned = [passed["requirement"] for passed in verdict["passes"]]
                raise RuntimeError(f"doing nothing in {task.task_id} passes {earned}")
    return [[turn["code"] for turn in play["turns"]] for play in played]


def _play_all(tasks: Sequence[Planned], workers: int) -> list[dict[str, Any]]:
    warm_engine(tasks[0].task_id)
    count = itertools.count(1)

    def play_task(task: Planned) -> dict[str, Any]:
        if next(count) % COLLECT_EVERY == 0:
            gc.collect()
        template = engine.Template(task.task_id)
        reference, no_op = play(template, [Reference(task), NoOp()])
        template.close()
        return {"turns": reference["turns"], "changes": reference["changes"], "no_op": no_op["changes"]}

    return share("tasks_played", tasks, workers, play_task)


def warm_engine(task_id: str) -> None:
    """Imports and patches the engine in this process, for playing, and builds what all worlds share."""
    engine.accelerate()
    warm.warm_up(task_id)
    engine.settle()


class Player(Protocol):
    """Decides an episode's cells as it goes."""

    right: bool

    def next_cell(self, turn: int, seen: str) -> str | None:
        """The code of turn `turn`, or None at the end. `seen` is the last observation."""


class Reference:
    """Plays the reference solution of one task."""

    right = True

    def __init__(self, task: Planned) -> None:
        self.scenario, self.values = task.scenario, task.draft.values

    def next_cell(self, turn: int, seen: str) -> str | None:
        if turn == len(self.scenario.cells):
            return None
        return self.scenario.code(turn, self.scenario.right(), self.values, seen)


class NoOp:
    """Says at once that the task is done."""

    right = False

    def next_cell(self, turn: int, seen: str) -> str | None:
        del seen
        return NO_OP if turn == 0 else None


def play(template: engine.Template, players: Sequence[Player]) -> list[dict[str, Any]]:
    """Plays one episode per player: turns, and the database changes that each left.

    Episodes that begin alike are one process until they part, so a log-in that all share is run once.
    """

    def begin() -> dict[str, Any]:
        template.adopt()
        return _play_on(template, dict(enumerate(players)), [])

    records = in_child(begin)
    return [records[str(number)] for number in range(len(players))]


def _play_on(
    template: engine.Template, players: Mapping[int, Player], turns: list[dict[str, str]]
) -> dict[str, dict[str, Any]]:
    """From here on: the last of the ways that players take in this process, the others in forked ones."""
    records: dict[str, dict[str, Any]] = {}
    while players:
        seen = turns[-1]["observation"] if turns else ""
        ways: dict[str, dict[int, Player]] = {}
        ended: dict[int, Player] = {}
        for number, player in players.items():
            code = player.next_cell(len(turns), seen)
            (ended if code is None else ways.setdefault(code, {}))[number] = player
        if ended:
            left = {"turns": turns, "changes": in_child(partial(_changes, template)) if ways else _changes(template)}
            records |= {str(number): {**left, "right": player.right} for number, player in ended.items()}
        state, players = random.getstate(), {}
        for number, (code, group) in enumerate(ways.items(), start=1):
            if number < len(ways):
                records |= in_child(partial(_part, template, group, turns, code, state))
            else:
                players, turns = group, [*turns, _turn(template, code)]
    return records


def _changes(template: engine.Template) -> list[dict[str, Any]]:
    changes = template.new_changes()
    return [changes] if changes else []


def _part(
    template: engine.Template, players: Mapping[int, Player], turns: list[dict[str, str]], code: str, state: Any
) -> dict[str, dict[str, Any]]:
    random.setstate(state)  # a forked child is reseeded, which would break the engine's seed
    return _play_on(template, players, [*turns, _turn(template, code)])


def _turn(template: engine.Template, code: str) -> dict[str, str]:
    observation, _ = template.execute(code)
    return {"code": code, "observation": observation}


def _grade_all(tasks: Sequence[Planned], played: Sequence[dict[str, Any]], workers: int) -> list[list[dict[str, Any]]]:
    engine.accelerate_grading()
    grade.quicken_switches()

    def verdicts(item: tuple[Planned, dict[str, Any]]) -> list[dict[str, Any]]:
        task, play = item
        graded = grade.GradedTask(task.task_id)
        found = [graded.grade(play["changes"]), graded.grade([]), graded.grade(play["no_op"])]
        graded.close()
        return found

    return share("tasks_graded", list(zip(tasks, played, strict=True)), workers, verdicts)


def store_solution(folder: Any, cells: Sequence[str]) -> None:
    """Beside the tests, where no episode sees it: the cells of the reference solution."""
    (folder / "ground_truth" / "solution.json").write_text(json.dumps({"cells": list(cells)}))
