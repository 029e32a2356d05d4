"""What came of each task draw: which groups had signal, which were replaced. Pure; it follows from the ledger alone.

A group is without signal when the trainer passed all of it over as such, or, before the trainer has spoken, when the
rewards of all its trajectories are equal: its advantages are 0. A draw's number is its place in the endless list of
passes over the tasks, an epoch each; a task that is left out leaves a gap. What the next draw is follows from these
entries and the seed.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Draw:
    """One task draw and what came of it."""

    number: int  # of its group
    task_id: str
    signal: bool | None  # None while its group is not complete, or never was
    step: int  # that its group was handed to, or was replaced for; 0: neither
    refilled: bool  # whether another was drawn in its place


class History:
    """All draws of a run, by number. Noted again, a draw's later word holds."""

    def __init__(self, draws: Iterable[Draw] = ()) -> None:
        self._draws: dict[int, Draw] = {}
        self._numbers: dict[str, list[int]] = defaultdict(list)  # by task, ascending
        self._streaks: dict[str, int] = {}  # by task, above 0 alone
        self._refills: Counter[int] = Counter()  # by step
        self.next_number = 0
        for draw in draws:
            self.note(draw)

    def note(self, draw: Draw) -> None:
        """A draw, or what has come of it since."""
        before = self._draws.get(draw.number)
        if before is None:
            insort(self._numbers[draw.task_id], draw.number)
            self.next_number = max(self.next_number, draw.number + 1)
        elif before.refilled:
            self._refills[before.step] -= 1
        if draw.refilled:
            self._refills[draw.step] += 1
        self._draws[draw.number] = draw
        self._streaks[draw.task_id] = self._streak(draw.task_id)
        if not self._streaks[draw.task_id]:
            del self._streaks[draw.task_id]

    def draws(self) -> list[Draw]:
        """All, by number."""
        return [self._draws[number] for number in sorted(self._draws)]

    def refills(self, step: int) -> int:
        """Groups without signal that were replaced for a step, count."""
        return self._refills[step]

    def without_signal(self, groups: int) -> dict[str, int]:
        """Tasks of whose complete groups the last `groups` were without signal; each with its last draw's number."""
        return {task: self._numbers[task][-1] for task, streak in self._streaks.items() if streak >= groups}

    def figures(self, step: int) -> dict[str, Any]:
        """The counts of a step's line `draws` in metrics.jsonl, and those of the whole run so far.

        groups: handed to the trainer for this step. without_signal: of them, those that it could learn nothing from.
        refilled: complete groups without signal that were replaced for this step, not among its groups.
        without_signal_in_sum, refilled_in_sum: the same of all draws so far, each group counted once in one of the two.
        tasks_without_signal: for each task that had such a group in this step, its groups without signal in all.
        """
        here = [draw for draw in self._draws.values() if draw.step == step]
        without = [draw for draw in self._draws.values() if draw.signal is False]
        in_sum = Counter(draw.task_id for draw in without)
        handed = [draw for draw in here if not draw.refilled]
        return {
            "groups": len(handed),
            "without_signal": sum(draw.signal is False for draw in handed),
            "refilled": self._refills[step],
            "without_signal_in_sum": sum(not draw.refilled for draw in without),
            "refilled_in_sum": sum(draw.refilled for draw in without),
            "tasks_without_signal": {
                task: in_sum[task] for task in sorted({draw.task_id for draw in here if draw.signal is False})
            },
        }

    def _streak(self, task: str) -> int:
        streak = 0
        for number in reversed(self._numbers[task]):
            signal = self._draws[number].signal
            if signal:
                break
            streak += signal is False
        return streak
