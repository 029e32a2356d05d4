"""`loop tail --trajectory ID`: one trajectory's life across both sides, put together from the lines of their logs.

A trajectory has the id of its lease, which begins with that of its group. Lines that name one of the first two are its
own; those of the group, and of the step that the group was trained in, belong to it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from common.tail_filters import Filter, group_of
from common.tail_lines import Fields, Form, parse
from common.tail_sources import Line

# the stations of a life and the events that tell of them, in order; the last one is its end
STATIONS = {
    "granted": ("lease_granted",),
    "episode begun": ("episode_began",),
    "turns": ("turn_sampled",),
    "finished": ("episode_finished", "episode_failed", "episode_cancelled"),
    "spooled": ("trajectory_spooled",),
    "sent": ("trajectory_sent",),
    "received": ("trajectory_received",),
    "journalled": ("trajectory_journalled",),
    "acknowledged": ("trajectory_acknowledged", "trajectory_not_taken"),
    "grouped": ("group_ready",),
    "handed to the trainer": ("group_handed", "groups_handed"),
    "ended": ("trajectory_trained", "trajectory_evaluated", "lease_dropped"),
}
STATION_OF = {event: station for station, events in STATIONS.items() for event in events}
TRAINING = ("grouped", "handed to the trainer")  # not in the life of what is evaluated
OF_A_STEP = frozenset(("groups_handed", "step_made", "step_refused", "step_without_signal", "version_published"))
DEBUG = "--run.log_level debug logs every step of a life"


@dataclass(frozen=True)
class Part:
    """One line of a life."""

    line: Line
    fields: Fields


class Life:
    """What the lines say of a trajectory. Lines come in by `add`, in any order."""

    def __init__(self, trajectory: str) -> None:
        self.trajectory, self.group = trajectory, group_of(trajectory)
        self.step: int | None = None  # that it was trained or dropped in
        self._parts: list[Part] = []
        self._of_steps: dict[int, list[Part]] = {}  # lines of any step, until it is known which is its own
        self.facts: dict[str, Any] = {}

    def wanted(self, since: bytes = b"") -> Filter:
        """What turns away lines that have nothing to do with it."""
        words = [f'"{self.trajectory}"', '"step"', *([f'"{self.group}"'] if self.group else [])]
        return Filter([tuple(word.encode() for word in words)], [], since)

    def add(self, lines: Iterable[Line]) -> Iterator[Part]:
        """Those that belong to it. Lines of its step come late: when one says which step that is."""
        for line in lines:
            fields = parse(line[1])
            if fields is None:
                continue
            step = fields.get("step")
            if self._is_its_own(fields):
                self._note(fields)
                yield self._keep(Part(line, fields))
                if self.step is not None:
                    yield from map(self._keep, self._of_steps.pop(self.step, []))
            elif fields.get("event") in OF_A_STEP and isinstance(step, int):
                part = Part(line, fields)
                if step == self.step:
                    yield self._keep(part)
                else:
                    self._of_steps.setdefault(step, []).append(part)

    @property
    def parts(self) -> list[Part]:
        """All of it, by time."""
        return sorted(self._parts, key=lambda part: part.line[0])

    @property
    def seen(self) -> set[str]:
        """Stations that a line tells of."""
        return {STATION_OF[event] for part in self._parts if (event := part.fields.get("event")) in STATION_OF}

    @property
    def outcome(self) -> str:
        """What became of it, in words; empty while it is open."""
        event, reason = self.facts.get("event"), self.facts.get("reason", "")
        if event is None:
            return ""
        what = {"trajectory_trained": "trained", "trajectory_evaluated": "evaluated"}.get(event, f"dropped: {reason}")
        return what + (f" in step {self.step}" if self.step is not None else "")

    def without_a_line(self) -> tuple[list[str], list[str]]:
        """Stations that it has passed without a line, and those that it has not reached as far as the lines say."""
        names, seen = list(STATIONS), self.seen
        if self.facts.get("event") == "trajectory_evaluated":
            names = [name for name in names if name not in TRAINING]
        reached = max((number for number, name in enumerate(names) if name in seen), default=-1)
        if "ended" in seen and self.facts.get("event") == "lease_dropped":
            # it may have ended at any of them: what lies behind the last one but the end was not reached
            reached = max((number for number, name in enumerate(names[:-1]) if name in seen), default=-1)
            return [name for name in names[:reached] if name not in seen], []
        return [name for name in names[:reached] if name not in seen], names[reached + 1 :]

    def _is_its_own(self, fields: Fields) -> bool:
        mine = self.trajectory
        if self._names_it(fields):
            return True
        if any(mine in many for name in ("leases", "trajectories") if isinstance(many := fields.get(name), list)):
            return True
        of_another = fields.get("lease") or fields.get("trajectory")
        return bool(self.group) and fields.get("group") == self.group and not of_another

    def _names_it(self, fields: Fields) -> bool:
        return self.trajectory in (fields.get("lease"), fields.get("trajectory"))

    def _note(self, fields: Fields) -> None:
        if self._names_it(fields):
            for name in ("task", "actor", "reward"):
                if name in fields:
                    self.facts.setdefault(name, fields[name])
            if fields.get("event") in STATIONS["ended"]:
                self.facts.update(event=fields["event"], reason=fields.get("reason", ""))
        if isinstance(step := fields.get("step"), int) and step > 0:
            self.step = step

    def _keep(self, part: Part) -> Part:
        self._parts.append(part)
        return part


def told(life: Life, form: Form, parts: Iterable[Part]) -> str:
    """Lines of a life, each behind its station."""
    width = max(map(len, STATIONS))
    return "".join(
        f"{STATION_OF.get(str(part.fields.get('event')), ''):<{width}}  {form.text(_without_ids(part.fields, life))}\n"
        for part in parts
    )


def heading(life: Life) -> str:
    """Whose life it is, and what became of it."""
    facts = {"group": life.group, **{name: life.facts.get(name, "") for name in ("task", "actor", "reward")}}
    named = "  ".join(f"{name} {value}" for name, value in facts.items() if value != "")
    return f"trajectory {life.trajectory}  {named}\n{life.outcome or 'not ended yet, as far as the lines say'}\n"


def ending(life: Life) -> str:
    """Which steps of the life have no line."""
    passed, to_come = life.without_a_line()
    lines = []
    if passed:
        lines.append(f"passed without a line: {', '.join(passed)} ({DEBUG})")
    if to_come:
        lines.append(f"no line yet: {', '.join(to_come)}")
    return "".join(f"{line}\n" for line in lines)


def _without_ids(fields: Fields, life: Life) -> Fields:
    """What the heading says already need not stand in every line."""
    same = {
        "lease": life.trajectory,
        "trajectory": life.trajectory,
        "group": life.group,
        "task": life.facts.get("task"),
    }
    return {name: value for name, value in fields.items() if name not in same or value != same[name]}
