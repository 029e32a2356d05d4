"""What each message of the trainer does and how it is answered (stages 5 and 11). No sockets here.

As with actors, an answer may leave only after `RunState.commit`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from common.log import get_logger
from common.messages import Message
from learner.gateway.ledger import Version
from learner.gateway.records import STRAGGLER
from learner.gateway.run_state import RunState
from learner.gateway.trainer_port import (
    GroupHeader,
    Groups,
    Impossible,
    NextGroups,
    Noted,
    NotYet,
    Published,
    Resume,
    TrainerHello,
    TrainerWelcome,
    TrainingFinished,
)

log = get_logger(__name__)

Answer = tuple[Message, list[bytes]]  # and trajectories as frames


class TrainerDesk:
    """Answers the trainer.

    Args:
        run: the run's state.
        in_use: policy versions that live actors sample with or fetch.
    """

    def __init__(self, run: RunState, in_use: Callable[[], Collection[int]] = tuple) -> None:
        self._run = run
        self._in_use = in_use
        self.trainer_is_done = False  # said so since this process began

    def answer(self, message: Message) -> Answer:
        """The answer to one message; `NotYet` may be asked again when something has changed."""
        match message:
            case TrainerHello():
                return self._hello(message.resume), []
            case NextGroups():
                return self._next_groups(message.step)
            case Published():
                return self._published(message), []
            case TrainingFinished():
                log.info("training_finished", step=self._run.book.steps, policy_version=self._run.policy_version)
                self._run.course.end_training()
                self.trainer_is_done = True
                return Noted(), []
        return Impossible(reason=f"{type(message).__name__} is nothing that a trainer says"), []

    def _hello(self, resume: Resume | None) -> Message:
        run = self._run
        steps = run.book.steps
        if resume is None and steps:
            return Impossible(reason=f"the ledger stands at step {steps}, but the trainer brings no state of the run")
        step, consumed, dropped = (resume.step, resume.consumed, resume.dropped) if resume else (0, (), {})
        if step < steps and run.course.phase not in ("evaluate_before", "train"):
            return Impossible(reason=f"training ended with step {steps}, but the trainer's state is of step {step}")
        undone = run.ledger.undo_after(step)
        if undone:
            log.warning("steps_undone", ledger_step=steps, trainer_step=step, groups=len(undone))
        run.book.resume(step, consumed, dropped, undone)
        run.take_up_version()
        run.book.steps = step
        log.info("trainer_welcomed", step=step, policy_version=run.policy_version)
        return TrainerWelcome(run_id=run.run_id, policy_version=run.policy_version, step=step)

    def _next_groups(self, step: int) -> Answer:
        if step != self._run.book.steps + 1:
            return Impossible(reason=f"groups of step {step} asked for, the next is {self._run.book.steps + 1}"), []
        taken = self._run.book.take(step)
        if isinstance(taken, str):
            return NotYet(reason=taken), []
        headers: list[GroupHeader] = []
        ids: list[str] = []
        for group in taken:
            members = tuple(record.lease_id for record in group.survivors)
            headers.append(GroupHeader(group_id=group.group_id, task_id=group.task_id, trajectory_ids=members))
            ids += members
        cut = sum(r.reason == STRAGGLER for group in taken for member in group.members for r in member.leases)
        log.info("groups_handed", step=step, groups=len(headers), trajectories=len(ids), stragglers_cut=cut)
        return Groups(groups=tuple(headers)), self._run.ledger.frames(ids)

    def _published(self, message: Published) -> Message:
        run = self._run
        version = Version(message.policy_version, message.manifest_digest, message.step)
        noted = Noted(in_use=tuple(sorted(self._in_use())))
        if run.current == version:
            return noted
        again = run.current is not None and (run.current.version, run.current.step) == (version.version, version.step)
        if version.version <= run.policy_version and not again:
            return Impossible(reason=f"version {version.version} published, current is {run.policy_version}")
        run.book.consume(message.step, message.consumed, message.dropped)
        run.ledger.publish(version, len(message.consumed), len(message.dropped))
        run.publish(version)
        if version.step:
            run.report_draws(version.step)
            run.report_stragglers(version.step)
        shown = {"trained": len(message.consumed), "passed_over": len(message.dropped)}
        log.info("version_published", policy_version=version.version, step=version.step, **shown)
        return noted
