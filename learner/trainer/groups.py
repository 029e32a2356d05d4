"""Stage 5 in the trainer: groups as handed out -> groups that may be trained on, and why others may not.

This is the second, hard bound on staleness (the first is admission) and the last look at what came over the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from common.messages import Trajectory
from learner.gateway.trainer_port import GroupRecord


@dataclass(frozen=True)
class Group:
    """The members of one task draw that may be trained on: two or more."""

    group_id: str
    task_id: str
    members: tuple[Trajectory, ...]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a trajectory must fit."""

    policy_version: int  # of the learner now
    staleness_bound: int  # policy versions
    vocabulary: int  # token ids are below it
    context: int  # tokens the model has positions for, in each context of a trajectory


def admit(records: Iterable[GroupRecord], limits: Limits) -> tuple[list[Group], dict[str, str]]:
    """Groups of members within the limits, and a reason for each trajectory that is passed over.

    Reasons are the words that the ledger counts by: those of `refusal`, and `alone` for the last survivor of a group,
    which has no baseline.
    """
    groups, dropped = [], {}
    for record in records:
        members = []
        for trajectory in record.members:
            reason = refusal(trajectory, limits)
            if reason is None:
                members.append(trajectory)
            else:
                dropped[trajectory.trajectory_id] = reason
        if len(members) == 1:
            dropped[members[0].trajectory_id] = "alone"
        elif members:
            groups.append(Group(record.group_id, record.task_id, tuple(members)))
    return groups, dropped


def refusal(trajectory: Trajectory, limits: Limits) -> str | None:
    """Why a trajectory may not be trained on; None when it may.

    `evaluation`, `temperature` (its log-probs are of another distribution), `future_version`, `stale`,
    `invalid_token`, `too_long`, `no_prompt` (its first token has no context to be predicted from).
    """
    failed = {
        "evaluation": trajectory.lease.purpose != "train",
        "temperature": trajectory.lease.sampling.temperature != 1.0,
        "future_version": int(trajectory.versions.max()) > limits.policy_version,
        "stale": limits.policy_version - trajectory.oldest_version > limits.staleness_bound,
        "invalid_token": int(trajectory.tokens.max()) >= limits.vocabulary,
        "too_long": int(np.diff(trajectory.contexts).max()) > limits.context,
        "no_prompt": bool(trajectory.sampled[0]),
    }
    return next((reason for reason, holds in failed.items() if holds), None)


def members_of(records: Sequence[GroupRecord]) -> list[Trajectory]:
    """All that was handed out, in order."""
    return [trajectory for record in records for trajectory in record.members]
