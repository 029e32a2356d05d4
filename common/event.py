"""What the table of events says of each: its level, its meaning, its fields; and what every line carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["debug", "info", "warning", "error"]

LEVELS: dict[Level, str] = {
    "debug": "detail for finding a defect, several lines for one message or episode; the only level that may carry "
    "what a policy wrote; off unless `run.log_level` says so",
    "info": "the work goes as it should: what began, ended, or is waited for",
    "warning": "something went wrong that the system mends or goes round by itself: look when it repeats",
    "error": "something is lost, stands still until somebody acts, or ends a process",
}
# of every line, in this order; from `lease` on where it applies
LINE: dict[str, str] = {
    "timestamp": "when, ISO 8601 in UTC with microseconds, ends in Z",
    "level": "see above",
    "event": "its name, below",
    "module": "where in the code it was logged; of another package's warning, the name of its logger",
    "process": "learner, gateway, trainer (trainer-1, ... with several ranks), actor, engine (vLLM's process), or the "
    "command: demo, eval, world, replay, warm-start",
    "run": "the run's id; in a process that does not know it (yet) the name of the run's folder, with which it begins",
    "actor": "the actor's name: in its own lines, and in the learner's that speak of it",
    "lease": "the lease's id",
    "group": "the group's id",
    "trajectory": "the trajectory's id, which is its lease's",
    "task": "AppWorld's task",
    "policy_version": "policy version; of an episode or trajectory the newest that sampled in it; -1: none yet",
}
EXCEPTION = "exception"  # of a defect: its traceback, given to a call as `exc_info`


@dataclass(frozen=True)
class Event:
    """One event of the logs.

    Args:
        level: at which it is logged, wherever it is.
        meaning: what has happened, in a line.
        fields: besides those of `LINE`: name -> what it is, with its unit.
        more: further fields in words, where the code does not name them one by one.
    """

    level: Level
    meaning: str
    fields: Mapping[str, str] = field(default_factory=dict)
    more: str = ""
