"""The straggler rule (stage 5): when the last episodes of a step are not waited for any longer. Pure.

LOOP (arXiv 2502.01600) ends an iteration's collection when 90 % of all rollouts and 4 of 6 of every task are in. Here
that is asked when the trainer asks for groups, so nothing is cut while it is busy. Short episodes come in first, so
cutting prefers them: the line `stragglers` of metrics.jsonl tells the mean length of what was kept and of what was cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from learner.gateway.draw import RolloutConfig
from learner.gateway.records import Group, LeaseRecord


def to_close(
    ready: Sequence[Group], opened: Iterable[Group], config: RolloutConfig, *, oldest_version: int, refills_left: bool
) -> list[Group]:
    """Open groups to close with their survivors, so that a step gets its groups; none while it has to wait.

    A member that is lost (stale, failed too often) is no straggler: it is not waited for, so it does not count. A group
    that will be replaced as it is without signal is closed by itself: until its replacement is there, the others have
    time.

    Args:
        ready: groups that the step may have.
        opened: open groups, in the order of their draw.
        config: groups of a step, and the rule's share and least number of members.
        oldest_version: the oldest policy version that may be trained on.
        refills_left: whether a group without signal will be replaced.
    """
    lacking = config.groups_per_step - len(ready)
    if lacking <= 0:
        return []
    late: list[Group] = []
    rewards: list[list[float | None]] = []  # of what each has that may be trained on
    for group in islice(opened, lacking):
        usable = [record.reward for record in group.survivors if record.oldest_version >= oldest_version]
        if len(usable) < config.least_members:
            return []
        late.append(group)
        rewards.append(usable)
    arrived = sum(map(len, rewards)) + sum(len(group.survivors) for group in ready)
    awaited = sum(not member.is_lost(config.most_failures) for group in (*ready, *late) for member in group.members)
    if len(late) < lacking or arrived < config.straggler_share * awaited - 1e-9:
        return []
    without_signal = [group for group, of in zip(late, rewards, strict=True) if len(set(of)) == 1]
    return without_signal[:1] if refills_left and without_signal else late


def stragglers_of(group: Group) -> list[LeaseRecord]:
    """Leases of a group that are out still."""
    return [record for member in group.members for record in member.leases if record.state == "leased"]
