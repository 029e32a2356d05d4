"""Stage 1: the group that a task draw, or a task of an evaluation, opens, and the lease of a place in it. Pure."""

from __future__ import annotations

from common.messages import Lease
from learner.gateway.draw import RolloutConfig
from learner.gateway.evaluation import EvaluationTask
from learner.gateway.records import Group, Member


def group_of_draw(config: RolloutConfig, number: int, task_id: str, steps: int) -> Group:
    """The group of draw `number`, from 0, made when `steps` steps were made."""
    return Group(
        group_id=f"g{number:06d}",
        number=number,
        task_id=task_id,
        purpose="train",
        label="",
        minimum_version=0,
        sampling=config.sampling.model_copy(update={"max_turns": config.turns_at(steps)}),
        members=[Member() for _ in range(config.group_size)],
    )


def group_of_evaluation(
    config: RolloutConfig, task: EvaluationTask, minimum_version: int, max_turns: int | None
) -> Group:
    """A task of an evaluation; `max_turns` of an episode, None: as in training."""
    update: dict[str, object] = {"temperature": task.temperature}
    if max_turns is not None:
        update["max_turns"] = max_turns
    return Group(
        group_id=task.group_id,
        number=-1,
        task_id=task.task_id,
        purpose="evaluate",
        label=task.label,
        minimum_version=minimum_version,
        sampling=config.sampling.model_copy(update=update),
        members=[Member() for _ in range(task.rollouts)],
    )


def lease_of(config: RolloutConfig, group: Group, index: int, policy_version: int) -> Lease:
    """The next lease of a member, granted at a policy version."""
    epoch = len(group.members[index].leases)
    return Lease(
        lease_id=f"{group.group_id}.{index}.{epoch}",
        group_id=group.group_id,
        member=index,
        epoch=epoch,
        task_id=group.task_id,
        purpose=group.purpose,
        label=group.label,
        # training asks for the version of now: the admission bound then keeps the lag within the staleness bound
        minimum_version=policy_version if group.purpose == "train" else group.minimum_version,
        sampling=group.sampling,
        time_to_live=config.lease_seconds,
    )
