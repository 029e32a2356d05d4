"""Tests that several scenarios share. The source of `evaluate` becomes the task's evaluation.py, so it stands alone.

A no-op earns nothing: "nothing else changed" is credited only together with a sign that the task was done.
"""

from __future__ import annotations

import json
from typing import Any


def touched(models: Any) -> dict[str, list[int]]:
    """How many rows of each model were added, updated and removed, e.g. {"simple_note.Note": [1, 0, 0]}.

    The only look at a world that misses no collateral damage: comparing it with "==" leaves nothing unsaid. Its source
    stands at the head of every evaluation.py, so that every `evaluate` may call it.
    """
    names = models.changed_model_names()
    return {name: [len(rows) for rows in models.changed_records(name)] for name in sorted(names)}


def question(*, test: Any, private_data: Any, models: Any, ground_truth_answer: Any, **_: Any) -> None:
    """For a scenario that asks: the answer, then an answer of the right kind and an untouched world."""
    given = json.loads(models.end.supervisor.Task.all()[0].answer)
    with test("the answer is right"):
        test.answer(given, ground_truth_answer)
    with test("the answer names one of the things asked about, and nothing was changed"):
        test.case(str(given).removesuffix(".0"), "in", private_data["candidates"])
        test.case(models.changed_model_names(), "==", set())
