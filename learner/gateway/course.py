"""The course of a run: evaluate before, train, evaluate after, done; each change is in the ledger and in metrics.jsonl.

Training leases go out while the first evaluation's last episodes are still under way, so no actor idles; the trainer
gets its first groups when that evaluation is complete. Online evaluations stop nobody: every `dev_every` versions one
begins, its episodes are sampled by that version or later ones, and one that is not done when the next is due makes
that one fall out. At the end of training the last one is completed beside the evaluation after it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

from common.evaluation import summarise
from common.log import get_logger
from learner.gateway.evaluation import (
    ONLINE,
    EvaluationConfig,
    EvaluationLists,
    EvaluationTask,
    evaluation_tasks,
    is_online,
    online_tasks,
)
from learner.gateway.leases import LeaseBook
from learner.gateway.ledger import Ledger

log = get_logger(__name__)

Phase = Literal["evaluate_before", "train", "evaluate_after", "done"]
ONLINE_VERSION, ONLINE_LABEL = "online_version", "online_label"  # facts: the newest considered, the newest begun
SHOWN = ("policy_version", "newest_version", "tasks", "lost", "tgc", "sgc", "mean_reward")
Report = Callable[..., None]  # MetricsFile.write


class Course:
    """Which phase a run is in, and what that makes the book do."""

    def __init__(
        self, config: EvaluationConfig, lists: EvaluationLists, book: LeaseBook, ledger: Ledger, report: Report
    ) -> None:
        self._config = config
        self._lists = lists
        self._book = book
        self._ledger = ledger
        self._report = report
        self._open: dict[str, int] = {}  # evaluations that are not concluded, by label, with their tasks' count
        self.phase: Phase = cast("Phase", ledger.fact("phase") or "evaluate_before")

    def begin(self, *, again: bool = False) -> None:
        """Take up the run where the ledger has it; `again`: in the same process, which said so before."""
        if self._ledger.fact("phase") is None:
            self._enter("evaluate_before" if self._config.before and self._lists.main else "train")
        elif not again:
            self._report("phase", name=self.phase)
        recorded = self._ledger.recorded_evaluations()
        for when in self._begun():
            self._expect(
                task for task in evaluation_tasks(self._config, self._lists, when) if task.label not in recorded
            )
        online = self._ledger.fact(ONLINE_LABEL)
        if online is not None and online not in recorded:
            self._open[online] = len(self._lists.dev)
        self._book.training = self.phase in ("evaluate_before", "train")

    def advance(self) -> None:
        """Whatever follows from what has arrived since."""
        under_way = self._book.evaluations()
        for label in sorted(self._open.keys() - under_way):
            self._conclude(label)
        if self.phase == "evaluate_before" and (self._book.has_drawn or not under_way):
            self._enter("train")
        if self.phase == "train":
            self._evaluate_online()
        if self.phase == "evaluate_after" and not under_way:
            self._enter("done")

    def end_training(self) -> None:
        """The trainer made its last step. Said twice, it is said once."""
        if self.phase in ("evaluate_before", "train"):
            self._book.end_training()
            evaluates = (self._config.after and self._lists.main) or self._book.evaluations()
            self._enter("evaluate_after" if evaluates else "done")

    def _begun(self) -> list[str]:
        begun = ["before"] if self._config.before else []
        return [*begun, "after"] if self.phase == "evaluate_after" and self._config.after else begun

    def _evaluate_online(self) -> None:
        """Begin the online evaluation of the current version when it is due, or say that it falls out."""
        version, every = self._book.policy_version, self._config.dev_every
        if every is None or version < every or version % every:
            return
        # a step that was undone publishes its number again: that version has had its turn
        if version <= int(self._ledger.fact(ONLINE_VERSION) or 0):
            return
        self._ledger.set_fact(ONLINE_VERSION, str(version))
        tasks = online_tasks(self._config, self._lists, version)
        running = sorted(label for label in self._open if is_online(label))
        if running:
            self._report("evaluation_skipped", label=tasks[0].label, waiting_for=running[0])
            log.warning("evaluation_skipped", label=tasks[0].label, waiting_for=running[0])
            return
        self._ledger.set_fact(ONLINE_LABEL, tasks[0].label)
        self._book.add_evaluation(tasks, version, self._config.max_turns)
        self._expect(tasks)
        log.info("online_evaluation_began", label=tasks[0].label, tasks=len(tasks))

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._ledger.set_fact("phase", phase)
        self._report("phase", name=phase)
        log.info("phase_began", phase=phase, policy_version=self._book.policy_version)
        self._book.training = phase in ("evaluate_before", "train")
        if phase == "evaluate_before" or (phase == "evaluate_after" and self._config.after):
            when = phase.removeprefix("evaluate_")
            tasks = evaluation_tasks(self._config, self._lists, when)
            self._book.add_evaluation(tasks, max(0, self._book.policy_version), self._config.max_turns)
            self._expect(tasks)

    def _expect(self, tasks: Iterable[EvaluationTask]) -> None:
        self._open |= Counter(task.label for task in tasks)

    def _conclude(self, label: str) -> None:
        count = self._open.pop(label)
        result: dict[str, Any] = summarise(self._ledger.scored(label))
        if is_online(label):
            result["asked_version"] = int(label.removeprefix(ONLINE))  # later ones may have sampled too
        result["lost"] = count - result["tasks"]  # tasks whose every episode failed to be rolled out
        self._report("evaluation", label=label, **result)
        self._ledger.record_evaluation(label, json.dumps(result))
        shown = {key: result[key] for key in SHOWN}
        log.info("evaluation_finished", label=label, **shown)
