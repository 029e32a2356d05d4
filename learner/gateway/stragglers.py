"""The straggler rule (stage 5): when the last episodes of a step are not waited for any longer. Pure.

LOOP (arXiv 2502.01600) ends an iteration's collection when 90 % of all rollouts and 4 of 6 of every task are in. Here
that is asked when the trainer asks for groups, so nothing is cut while it is busy. Nor is a group's last member waited
for until the others are too old: a group that has enough, and would lose as many to their age as it waits for, goes
into the last step that may have it. Short episodes come in first, so cutting prefers them: the line `stragglers` of
metrics.jsonl tells the mean length of what was kept and of what was cut.

Carried over, where the run asks for that: when the rule would cut, the groups that it would close stay open and are the
step's no more. As many more may be drawn as are carried, so that engines are busy and the step is made of whole groups.
A carried group is trained on in the step in which it is whole, before later draws; at its last chance (above) as it is;
what of it grew too old is dropped as stale, and with fewer than two members left it is dropped whole. At most as many
groups are carried at a time as a step has, and none by the run's last step: then the rule cuts. Nothing waits for ever:
what is not carried goes by the rule as if nothing else were there, and each episode ends by limits of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from learner.gateway.draw import RolloutConfig
from learner.gateway.records import Group, LeaseRecord


def to_close(
    ready: Sequence[Group], opened: Iterable[Group], config: RolloutConfig, *, oldest_version: int, refills_left: bool
) -> list[Group]:
    """Open groups to close with their survivors before a step is handed out; none while it has to wait.

    A member that is lost (stale, failed too often) is no straggler: it is not waited for, so it does not count. A group
    that will be replaced as it is without signal is closed by itself: until its replacement is there, the others have
    time. What is carried already is not looked at. Where the step has its groups, those that would grow too old without
    it.

    Args:
        ready: groups that the step may have.
        opened: open groups, in the order of their draw.
        config: groups of a step, and the rule's share and least number of members.
        oldest_version: the oldest policy version that may be trained on.
        refills_left: whether a group without signal will be replaced.
    """
    lacking = config.groups_per_step - len(ready)
    if lacking <= 0:  # nobody waits any more: older groups would be passed by
        return [group for group in opened if _has_its_last_chance(group, config, oldest_version)]
    late: list[Group] = []
    rewards: list[list[float | None]] = []  # of what each has that may be trained on
    for group in islice((group for group in opened if not group.carried), lacking):
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


def to_carry(
    ready: Sequence[Group], opened: Sequence[Group], config: RolloutConfig, *, oldest_version: int, refills_left: bool
) -> list[Group]:
    """Open groups that a step goes without, so that it is made of others; arguments as of `to_close`.

    Those that the rule would close; none where they would be too many.
    """
    if config.stragglers != "carry" or len(ready) >= config.groups_per_step:
        return []
    late = to_close(ready, opened, config, oldest_version=oldest_version, refills_left=refills_left)
    carried = sum(group.carried > 0 for group in opened)
    return late if carried + len(late) <= config.groups_per_step else []


def is_hopeless(group: Group, most_failures: int) -> bool:
    """Whether fewer than two members of a group can still be trained on."""
    return sum(not member.is_lost(most_failures) for member in group.members) < 2


def _has_its_last_chance(group: Group, config: RolloutConfig, oldest_version: int) -> bool:
    """Whether it has enough members now, and at the next step would lose as many to their age as it waits for."""
    usable = [record.oldest_version for record in group.survivors if record.oldest_version >= oldest_version]
    awaited = sum(m.arrived is None and not m.is_lost(config.most_failures) for m in group.members)
    return len(usable) >= config.least_members and usable.count(oldest_version) >= awaited


def stragglers_of(group: Group) -> list[LeaseRecord]:
    """Leases of a group that are out still."""
    return [record for member in group.members for record in member.leases if record.state == "leased"]
