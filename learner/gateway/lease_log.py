"""What becomes of leases and groups (stages 1 and 5), as lines of the log: said once it is on the disk.

One line at `info` for each lease's end, the others at `debug`; `loop tail --trajectory` makes a life of them.
"""

from __future__ import annotations

from collections.abc import Collection

from common.log import get_logger
from learner.gateway.records import Group, LeaseRecord

log = get_logger(__name__)


def say(groups: Collection[Group], leases: Collection[LeaseRecord]) -> None:
    """The states that groups and leases have now."""
    for group in groups:
        _say_group(group)
    steps = {group.group_id: group.step for group in groups}
    for record in leases:
        _say_lease(record, steps.get(record.lease.group_id, 0))


def _say_group(group: Group) -> None:
    about = {"group": group.group_id, "task": group.task_id}
    if group.state == "ready":
        log.debug("group_ready", **about, trajectories=len(group.survivors), members=len(group.members))
    elif group.state == "handed":
        log.debug("group_handed", **about, step=group.step, trajectories=len(group.survivors))


def _say_lease(record: LeaseRecord, step: int) -> None:
    lease = record.lease
    about = {"lease": lease.lease_id, "group": lease.group_id, "task": lease.task_id, "actor": record.actor}
    trajectory = {**about, "trajectory": lease.lease_id, "reward": record.reward}
    match record.state:
        case "leased":
            log.debug("lease_granted", **about, policy_version=record.version, purpose=lease.purpose)
        case "received":
            log.debug("trajectory_journalled", **trajectory, oldest_version=record.oldest_version)
        case "trained":
            log.info("trajectory_trained", **trajectory, step=step, oldest_version=record.oldest_version)
        case "evaluated":
            log.info("trajectory_evaluated", **trajectory, label=lease.label)
        case "dropped":
            log.info("lease_dropped", **about, reason=record.reason, detail=record.detail)
