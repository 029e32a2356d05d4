"""Everything the gateway knows of its run, opened from the run folder; and the one way in which it becomes durable."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.checkpoint import TOKENIZER, folder_of, read_manifest
from common.errors import RunError, UsageError
from common.messages import MOST_TASK_IDS, Announcement
from common.metrics import MetricsFile
from common.prompt_config import PromptConfig
from common.task_ids import TaskList
from learner.gateway.course import Course
from learner.gateway.draw import RolloutConfig, TaskDraw
from learner.gateway.evaluation import EvaluationConfig, EvaluationLists
from learner.gateway.history import History
from learner.gateway.inbox import Inbox
from learner.gateway.lease_log import say
from learner.gateway.leases import LeaseBook
from learner.gateway.ledger import Ledger, Version
from learner.gateway.records import NOT_AWAITED, Group, LeaseRecord


class RunState:
    """Ledger, lease book, inbox, course and current version of one run.

    Args:
        folder: the run folder.
        seed: of the task draw.
        train_tasks: task ids to train on.
        lists: held-out task ids.
        now: seconds on the clock that the caller will use for leases.
        prompt: how actors must put tasks to the policy.

    Raises:
        UsageError: the run was begun with another seed, or its lists are longer than actors are told of.
        RunError: the ledger cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        rollout: RolloutConfig,
        evaluation: EvaluationConfig,
        *,
        seed: int,
        train_tasks: Sequence[str],
        lists: EvaluationLists,
        now: float,
        prompt: PromptConfig | None = None,
    ) -> None:
        self.folder, self.prompt = folder, prompt or PromptConfig()
        self.metrics = MetricsFile(folder / "metrics.jsonl")
        self.ledger = Ledger(folder / "ledger.sqlite")
        self._config = rollout, evaluation, lists
        self._draws_from = train_tasks, seed
        self.tasks = _all_tasks(train_tasks, lists)
        self.news: list[Announcement] = []  # to send after the next commit
        self.cancelled: dict[str, list[str]] = {}  # likewise: leases to stop, by actor
        self._unsaid: tuple[dict[str, Group], dict[str, LeaseRecord]] = {}, {}  # saved: to log after the next commit
        self.moved = False  # the last commit held more than grants: what the trainer waits for may be there
        self.book, self.inbox, self.course = self._as_the_ledger_has_it(now)
        self.current: Version | None = None
        self.take_up_version()
        if self.ledger.fact("run_id") is None:
            self.ledger.set_fact("run_id", _new_run_id(folder))
            self.ledger.set_fact("seed", str(seed))
        if self.ledger.fact("seed") != str(seed):
            begun_with = self.ledger.fact("seed")
            raise UsageError(f"{folder}: begun with run.seed {begun_with}, not {seed}: set it back, or begin a new run")
        self.course.begin()
        self.commit()

    @property
    def run_id(self) -> str:
        return self.ledger.fact("run_id") or ""

    @property
    def policy_version(self) -> int:
        """-1 before the first."""
        return self.current.version if self.current else -1

    @property
    def manifest_digest(self) -> str:
        return self.current.digest if self.current else ""

    @property
    def finished(self) -> bool:
        return self.course.phase == "done"

    @property
    def tokenizer_digest(self) -> str:
        """sha256 of the current version's tokenizer.json, or of the version that it sits on; empty when it has none."""
        version: int | None = self.policy_version if self.current else None
        while version is not None:
            try:
                manifest, _ = read_manifest(folder_of(self.folder / "checkpoints", version))
            except RunError:
                return ""
            if TOKENIZER in manifest.files:
                return manifest.files[TOKENIZER].sha256
            version = manifest.base_version
        return ""

    def take_up_version(self) -> None:
        """The current version and the steps made, as the ledger has them."""
        self.current = self.ledger.current_version()
        self.book.policy_version = self.policy_version
        self.book.steps = self.current.step if self.current else 0

    def publish(self, version: Version) -> None:
        """A version becomes current; actors are told after the commit."""
        self.ledger.set_fact("highest_version", str(max(version.version, self.ledger.highest_version_ever())))
        self.take_up_version()
        self.news.append(Announcement(policy_version=version.version, manifest_digest=version.digest))

    def share_slots(self, slots: int) -> None:
        """How many slots the connected actors have together: online evaluations may use their share of them."""
        self.book.online_most = max(1, int(self._config[1].dev_share * slots))

    def report_draws(self, step: int) -> None:
        """The line `draws` of metrics.jsonl for a step that was made; a step that is made again has another.

        Besides the counts of `History.figures`, for the draws from now on: retired, the tasks that are left out;
        max_turns, the turns of an episode.
        """
        history = self.book.history
        left_out, turns = self.book.draw.left_out_now(history), self.book.config.turns_at(step)
        self.metrics.write("draws", step=step, **history.figures(step), retired=sorted(left_out), max_turns=turns)

    def report_stragglers(self, step: int) -> None:
        """The line `stragglers` of metrics.jsonl for a step that was made, where the rule is on; again, another."""
        if self.book.config.straggler_share < 1:
            self._save()
            self.metrics.write("stragglers", step=step, **self.ledger.straggler_figures(step))

    def go_back(self, now: float) -> None:
        """As after the last commit: for when the disk takes no more. Nobody was told of anything since."""
        self.ledger.roll_back()
        self.news.clear()
        self.cancelled.clear()
        self._unsaid = {}, {}
        self.book, self.inbox, self.course = self._as_the_ledger_has_it(now)
        self.take_up_version()
        self.course.begin(again=True)

    def _as_the_ledger_has_it(self, now: float) -> tuple[LeaseBook, Inbox, Course]:
        rollout, evaluation, lists = self._config
        draw = TaskDraw(*self._draws_from, rollout)
        book = LeaseBook(rollout, draw, self.ledger.live_groups(), History(self.ledger.draws()))
        book.extend_all(now)  # nobody could renew while the gateway was away
        course = Course(evaluation, lists, book, self.ledger, self.metrics.write)
        return book, Inbox(book, self.ledger), course

    def commit(self) -> None:
        """Returns when all changes, and what follows from them, are on the disk."""
        groups, leases = self._save()
        self.moved = bool(groups) or any(record.state != "leased" for record in leases)
        self._note_cancelled(leases)
        self.course.advance()
        self._note_cancelled(self._save()[1])
        self.ledger.commit()
        changed_groups, changed_leases = self._unsaid
        self._unsaid = {}, {}
        say(changed_groups.values(), changed_leases.values())

    def _save(self) -> tuple[list[Group], list[LeaseRecord]]:
        """What changed in the book goes to the ledger."""
        groups, leases = self.book.take_changes()
        self.ledger.save(groups, leases)
        self._unsaid[0].update((group.group_id, group) for group in groups)
        self._unsaid[1].update((record.lease_id, record) for record in leases)
        return groups, leases

    def _note_cancelled(self, leases: Iterable[LeaseRecord]) -> None:
        for record in leases:
            if record.state == "dropped" and record.reason in NOT_AWAITED and record.reward is None:
                self.cancelled.setdefault(record.actor, []).append(record.lease_id)

    def close(self) -> None:
        self.ledger.close()
        self.metrics.close()


def _all_tasks(train_tasks: Sequence[str], lists: EvaluationLists) -> TaskList:
    """All that actors may be asked for."""
    tasks = TaskList({*train_tasks, *lists.task_ids})
    if len(tasks.task_ids) > MOST_TASK_IDS:
        raise UsageError(
            f"the run's lists have {len(tasks.task_ids)} tasks in all, at most {MOST_TASK_IDS} are allowed"
        )
    return tasks


def _new_run_id(folder: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9_.:@-]+", "-", folder.resolve().name) or "run"
    return f"{name[:100]}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
