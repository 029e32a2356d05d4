"""What a run waits for, and what of it stands still, in words: a `Status` of figures comes in, lines go out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common.spans import span
from common.status_messages import MOST_WORDS, ActorStatus, GroupStatus, Status, TrainerStatus

SHOWN = 2  # groups of those that are waited for
QUIET = ("late", "silent")
LONG_SECONDS, LONG_TIMES = 60.0, 5.0  # what takes longer than both, as often as the last time, is named
MOST_STALLS = 20


def waits_for(status: Status) -> str:
    """What the run waits for, or what its trainer is at."""
    return _waits_for(status)[:MOST_WORDS]


def _waits_for(status: Status) -> str:  # noqa: PLR0911 - the first that holds
    trainer = status.trainer
    if status.phase == "done":
        return "the run is over: its processes are leaving"
    if status.disk_lacking:
        return status.disk_lacking
    if trainer.state in QUIET:
        return _quiet_trainer(trainer)
    if status.policy_version < 0:
        at = f", which is in {trainer.doing} for {span(trainer.doing_seconds)}" if trainer.doing else ""
        return f"the first policy version from the trainer{at or ', which has not been heard yet'}"
    if not status.actors_live and trainer.state != "working":
        return _nobody(status)
    if status.phase != "train" and status.evaluations_left:
        return _evaluation(status)
    if trainer.state == "waiting":
        return _step(status)
    if trainer.state == "working":
        return f"step {trainer.step}: the trainer is in {trainer.doing} for {span(trainer.doing_seconds)}"
    if trainer.state == "unheard":
        return f"the trainer, which has not been heard since the gateway began {span(status.up_seconds)} ago"
    return "the end of the run"


def stalls(status: Status) -> tuple[str, ...]:
    """What stands still and should not, the worst first."""
    return tuple(line[:MOST_WORDS] for line, _ in zip(_stalls(status), range(MOST_STALLS), strict=False))


def _stalls(status: Status) -> Iterator[str]:
    trainer = status.trainer
    if status.disk_lacking:
        yield f"the learner's disk is full: {status.disk_lacking}"
    if trainer.state in QUIET:
        yield _quiet_trainer(trainer)
    if trainer.state == "unheard" and status.up_seconds > LONG_SECONDS:
        yield f"the trainer has not been heard since the gateway began {span(status.up_seconds)} ago"
    if trainer.state == "working" and trainer.doing_seconds > max(LONG_SECONDS, LONG_TIMES * trainer.took_seconds):
        took = f", which took {span(trainer.took_seconds)} the last time" if trainer.took_seconds >= 0 else ""
        of_step = f" of step {trainer.step}" if trainer.step else ""
        if took or trainer.step:
            yield f"the trainer is in {trainer.doing}{of_step} for {span(trainer.doing_seconds)}{took}"
    for actor in status.actors:
        if actor.state in QUIET:
            yield _quiet_actor(actor, status.oldest_groups)


def _quiet_trainer(trainer: TrainerStatus) -> str:
    of_step = f" of step {trainer.step}" if trainer.step else ""
    was = f", was in {trainer.doing}{of_step}" if trainer.doing else ""
    return f"the trainer has said nothing for {span(trainer.heard_seconds)}{was}"


def _quiet_actor(actor: ActorStatus, groups: Sequence[GroupStatus]) -> str:
    waiting = [group.task_id for group in groups if group.oldest_lease_actor == actor.name]
    told = f"actor {actor.name} has said nothing for {span(actor.heard_seconds)}, {_count(actor.leases, 'lease')} out"
    if not waiting:
        return told
    more = f" and {len(waiting) - SHOWN} more" if len(waiting) > SHOWN else ""
    return f"{told}: task {', '.join(waiting[:SHOWN])}{more} waits for it"


def _nobody(status: Status) -> str:
    if not status.actors_known:
        return "the first actor to connect" if not status.episodes_done else "an actor to connect"
    last = min((actor for actor in status.actors if actor.state != "left"), key=lambda actor: actor.heard_seconds)
    quiet = f"actor {last.name} has said nothing for {span(last.heard_seconds)}"
    return f"an actor: none of {status.actors_known} is heard; {quiet}"


def _step(status: Status) -> str:
    step = f"step {status.trainer.step}"
    if not status.groups_lacking:
        return f"{step}: the trainer takes its groups"
    training = [group for group in status.oldest_groups if not group.label and not group.carried]
    # a step goes on with the groups that are whole first: those that lack least
    nearest = sorted(training, key=lambda group: group.members - group.lost - group.arrived)
    shown = [_group(group, status) for group in nearest[: min(SHOWN, status.groups_lacking)]]
    drawn = f": {', '.join(shown)}" if shown else ", none of which is drawn yet"
    return f"{step} waits for {_count(status.groups_lacking, 'group')}{drawn}"


def _evaluation(status: Status) -> str:
    labelled = [group for group in status.oldest_groups if group.label]
    label = f"the evaluation {labelled[0].label}" if labelled else "the evaluation"
    shown = f": {_group(labelled[0], status)}" if labelled else ""
    return f"{label} waits for {_count(status.evaluations_left, 'task')}{shown}"


def _group(group: GroupStatus, status: Status) -> str:
    told = f"task {group.task_id} has {group.arrived} of {group.members}"
    if group.oldest_lease_seconds < 0:
        return f"{told}, {_count(group.members - group.arrived - group.lost, 'lease')} to be granted"
    told += f", oldest lease {span(group.oldest_lease_seconds)} on actor {group.oldest_lease_actor}"
    if group.oldest_lease_heard_seconds > 2 * status.heartbeat_seconds:
        told += f", which has said nothing for {span(group.oldest_lease_heard_seconds)}"
    return told


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
