"""Verifies tasks through the engine: plays them in forked worlds, grades what was left. Runs in AppWorld's virtualenv.

Flows in: planned tasks whose folders are written. Flows out: the reference solution of each as it was played, or a
RuntimeError for the first task whose reference solution does not pass or of which a no-op passes a test.
Playing and grading patch the engine differently, so each is a process of its own.
"""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from actor.world import engine, grade
from actor.world.share import Say, in_child, share

if TYPE_CHECKING:
    from actor.world.generate import Planned

COLLECT_EVERY = 32  # tasks between two full collections
NO_OP = "apis.supervisor.complete_task()"
NextCell = Callable[[int, str], str | None]


def verify(tasks: Sequence[Planned], workers: int, say: Say) -> list[list[str]]:
    """The reference solution's cells of every task. RuntimeError names a task that is not as it must be."""
    played = in_child(lambda: _play_all(tasks, workers, say))
    graded = in_child(lambda: _grade_all(tasks, played, workers, say))
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


def _play_all(tasks: Sequence[Planned], workers: int, say: Say) -> list[dict[str, Any]]:
    warm_engine(tasks[0].task_id)
    count = itertools.count(1)

    def play(task: Planned) -> dict[str, Any]:
        if next(count) % COLLECT_EVERY == 0:
            gc.collect()
        scenario, options = task.scenario, task.scenario.right()

        def reference(turn: int, seen: str) -> str | None:
            return scenario.code(turn, options, task.draft.values, seen) if turn < len(scenario.cells) else None

        template = engine.Template(task.task_id)
        result = in_child(lambda: play_cells(template, reference))
        no_op = in_child(lambda: play_cells(template, lambda turn, _: None if turn else NO_OP))
        template.close()
        return {**result, "no_op": no_op["changes"]}

    return share("tasks_played", tasks, workers, play, say)


def warm_engine(task_id: str) -> None:
    """Imports and patches the engine in this process, for playing, and builds what all worlds share."""
    engine.accelerate()
    engine.Template(task_id).close()
    engine.settle()


def play_cells(template: engine.Template, cell: NextCell) -> dict[str, Any]:
    """Plays one episode in this forked child: its turns, and the database changes that it left."""
    template.adopt()
    turns: list[dict[str, str]] = []
    seen = ""
    while (code := cell(len(turns), seen)) is not None:
        seen, _ = template.execute(code)
        turns.append({"code": code, "observation": seen})
    changes = template.new_changes()
    return {"turns": turns, "changes": [changes] if changes else []}


def _grade_all(
    tasks: Sequence[Planned], played: Sequence[dict[str, Any]], workers: int, say: Say
) -> list[list[dict[str, Any]]]:
    engine.accelerate_grading()
    grade.quicken_switches()

    def verdicts(item: tuple[Planned, dict[str, Any]]) -> list[dict[str, Any]]:
        task, play = item
        graded = grade.GradedTask(task.task_id)
        found = [graded.grade(play["changes"]), graded.grade([]), graded.grade(play["no_op"])]
        graded.close()
        return found

    return share("tasks_graded", list(zip(tasks, played, strict=True)), workers, verdicts, say)


def store_solution(folder: Any, cells: Sequence[str]) -> None:
    """Beside the tests, where no episode sees it: the cells of the reference solution."""
    (folder / "ground_truth" / "solution.json").write_text(json.dumps({"cells": list(cells)}))
