"""The course of a run: evaluate before, train, evaluate after, done; each change is in the ledger and in metrics.jsonl.

Training leases go out while the first evaluation's last episodes are still under way, so no actor idles; the trainer
gets its first groups when that evaluation is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

from common.log import get_logger
from learner.gateway.draw import EvaluationConfig, evaluation_tasks
from learner.gateway.evaluation import summarise
from learner.gateway.leases import LeaseBook
from learner.gateway.ledger import Ledger

log = get_logger(__name__)

Phase = Literal["evaluate_before", "train", "evaluate_after", "done"]
Report = Callable[..., None]  # MetricsFile.write


class Course:
    """Which phase a run is in, and what that makes the book do."""

    def __init__(
        self, config: EvaluationConfig, tasks: Sequence[str], book: LeaseBook, ledger: Ledger, report: Report
    ) -> None:
        self._config = config
        self._tasks = tasks
        self._book = book
        self._ledger = ledger
        self._report = report
        self._open_labels: set[str] = set()
        self.phase: Phase = cast("Phase", ledger.fact("phase") or "evaluate_before")

    def begin(self, *, again: bool = False) -> None:
        """Take up the run where the ledger has it; `again`: in the same process, which said so before."""
        if self._ledger.fact("phase") is None:
            self._enter("evaluate_before" if self._config.before and self._tasks else "train")
        elif not again:
            self._report("phase", name=self.phase)
        recorded = self._ledger.recorded_evaluations()
        labels = {task.label for when in self._begun() for task in evaluation_tasks(self._config, self._tasks, when)}
        self._open_labels |= labels - recorded
        self._book.training = self.phase in ("evaluate_before", "train")

    def advance(self) -> None:
        """Whatever follows from what has arrived since."""
        under_way = self._book.evaluations()
        for label in sorted(self._open_labels - under_way):
            self._conclude(label)
        if self.phase == "evaluate_before" and (self._book.has_drawn or not under_way):
            self._enter("train")
        if self.phase == "evaluate_after" and not under_way:
            self._enter("done")

    def end_training(self) -> None:
        """The trainer made its last step. Said twice, it is said once."""
        if self.phase in ("evaluate_before", "train"):
            self._book.end_training()
            self._enter("evaluate_after" if self._config.after and self._tasks else "done")

    def _begun(self) -> list[str]:
        begun = ["before"] if self._config.before else []
        return [*begun, "after"] if self.phase == "evaluate_after" else begun

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._ledger.set_fact("phase", phase)
        self._report("phase", name=phase)
        log.info("phase_began", phase=phase, policy_version=self._book.policy_version)
        self._book.training = phase in ("evaluate_before", "train")
        if phase in ("evaluate_before", "evaluate_after"):
            when = phase.removeprefix("evaluate_")
            tasks = evaluation_tasks(self._config, self._tasks, when)
            self._book.add_evaluation(tasks, max(0, self._book.policy_version), self._config.max_turns)
            self._open_labels |= {task.label for task in tasks}

    def _conclude(self, label: str) -> None:
        self._open_labels.discard(label)
        result: dict[str, Any] = summarise(self._ledger.scored(label))
        result["lost"] = len(self._tasks) - result["tasks"]  # tasks whose every episode failed to be rolled out
        self._report("evaluation", label=label, **result)
        self._ledger.record_evaluation(label, json.dumps(result))
        shown = {key: result[key] for key in ("policy_version", "tasks", "lost", "tgc", "sgc", "mean_reward")}
        log.info("evaluation_finished", label=label, **shown)
