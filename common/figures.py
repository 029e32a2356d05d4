"""What a run's metrics.jsonl says in sum: evaluations, seconds by phase, tokens. Pure: events in, figures out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.evaluation import parts_of

Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The sums that the demo's table, picture and JSON line are made of."""

    evaluations: dict[str, Event]  # by label, the newest of each: "before.t0", "after.t1", ...
    steps: Sequence[Event]  # one a published version, in order, the newest where a step was done again after a crash
    phase_seconds: dict[str, float]  # wall seconds by phase name
    sampled_tokens: int
    trained_tokens: int
    trajectories: int  # trained on
    versions: int  # published by steps
    rollouts: Event = field(default_factory=dict)  # the newest state of the gateway

    def success(self, label: str) -> float | None:
        """Share of tasks whose tests all pass (TGC) in an evaluation, 0 to 1; None when it was not made."""
        event = self.evaluations.get(label)
        return None if event is None else float(event["tgc"])

    def of_list(self, name: str = "") -> dict[str, Event]:
        """Evaluations before and after of one list, "" the main one: by temperature, before first."""
        found = {label: parts_of(label) for label in self.evaluations}
        mine = {label: parts for label, parts in found.items() if parts is not None and parts[2] == name}
        in_order = sorted(mine, key=lambda label: (float(mine[label][1]), mine[label][0] == "after"))
        return {label: self.evaluations[label] for label in in_order}

    @property
    def online(self) -> dict[int, Event]:
        """Evaluations of the dev list on the way, by the version that they were asked for."""
        found = {event["asked_version"]: event for event in self.evaluations.values() if "asked_version" in event}
        return dict(sorted(found.items()))

    @property
    def lags(self) -> dict[int, float]:
        """Share of all trained tokens by policy-version lag, 0 to 1, the smallest lag first."""
        tokens: Counter[int] = Counter()
        for step in self.steps:
            tokens.update({int(lag): count for lag, count in step.get("lags", {}).items()})
        return {lag: tokens[lag] / tokens.total() for lag in sorted(tokens)}

    @property
    def lists_beside(self) -> list[str]:
        """Names of the lists that were evaluated beside the main one."""
        found = (parts_of(label) for label in self.evaluations)
        return sorted({parts[2] for parts in found if parts is not None} - {""})


def collect(events: Iterable[Event]) -> Figures:
    """The figures of a run, also of one that was cut off and went on (each session begins with `session`)."""
    evaluations: dict[str, Event] = {}
    steps: dict[int, Event] = {}
    seconds: dict[str, float] = {}
    rollouts: Event = {}
    phase, since, last = "", 0.0, 0.0
    for event in events:
        now = float(event.get("time", last))
        kind = event.get("event")
        if kind in ("phase", "session"):
            # a session that was cut off ends at its last sign of life, not at the next session's begin
            end = now if kind == "phase" else last
            if phase:
                seconds[phase] = seconds.get(phase, 0.0) + max(0.0, end - since)
            phase, since = (str(event["name"]), now) if kind == "phase" else ("", now)
        elif kind == "evaluation":
            evaluations[str(event["label"])] = event
        elif kind == "step":
            steps[int(event["step"])] = event
        elif kind == "rollouts":
            rollouts = event
        last = now
    if phase and phase != "done":
        seconds[phase] = seconds.get(phase, 0.0) + max(0.0, last - since)
    ordered = [steps[number] for number in sorted(steps)]
    return Figures(
        evaluations=evaluations,
        steps=ordered,
        phase_seconds=seconds,
        sampled_tokens=sum(int(step.get("sampled_tokens", 0)) for step in ordered),
        trained_tokens=sum(int(step.get("trained_tokens", 0)) for step in ordered),
        trajectories=sum(int(step.get("trajectories", 0)) for step in ordered),
        versions=max((int(step["policy_version"]) for step in ordered), default=0),
        rollouts=rollouts,
    )


def mean_lag(step: Event) -> float:
    """Mean policy-version lag of a step's trained tokens; 0 when it trained on none."""
    lags: dict[str, int] = step.get("lags", {})
    return sum(int(lag) * tokens for lag, tokens in lags.items()) / max(1, sum(lags.values()))
