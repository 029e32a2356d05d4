"""What the page says: overview, learning curves, scenarios and difficulties, books, behaviour. Pure: `Gathered` in.

A figure is a drawing, a legend, and the same numbers as a table. What was not recorded is said to be so in `missing`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from markupsafe import Markup

from common.evaluation import parts_of, resampled, wilson
from common.table import BEHAVIOUR
from learner.report.chart import Axis, Line, Pair, lines, pairs, shares
from learner.report.gather import Gathered, Rollout

STEP = Axis(title="step", form="{:.0f}")
SHARE = Axis(title="share", form="{:.2f}", low=0.0, high=1.0)
NOT_JUDGED = ("stale", "group_too_small", "run_over", "straggler")  # reasons of what no step's reward counts
PART_OF_TRAINING = 3  # the first and the last third are compared where there is no evaluation


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a head; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing with its words."""

    title: str
    drawing: Markup
    legend: Sequence[str] = ()  # by colour, s0 first
    note: str = ""
    table: Table | None = None
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the page."""

    name: str  # its anchor
    title: str
    lead: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[tuple[str, Table]] = ()  # title, table
    missing: Sequence[str] = ()  # what cannot be shown, and why


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One number of the overview."""

    name: str
    value: str
    note: str = ""
    kind: str = field(default="")  # good or bad, where it is either


def percent(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "-"
    between = f" ({interval[0]:.0%} to {interval[1]:.0%})" if interval else ""
    return f"{value:.1%}{between}"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.1f} min" if hours < 2 else f"{hours:.1f} h"


def tiles(found: Gathered) -> list[Tile]:
    """The overview's numbers."""
    figures, made = found.figures, []
    pair = found.pair()
    if pair is not None:
        before, after = (figures.evaluations[label] for label in pair)
        for name, key in (("held-out tasks solved (TGC)", "tgc"), ("held-out scenarios solved (SGC)", "sgc")):
            interval = after.get(f"{key}_interval")
            note = f"95 % interval {interval[0]:.0%} to {interval[1]:.0%}" if interval else ""
            kind = "good" if after[key] > before[key] else "bad" if after[key] < before[key] else ""
            made.append(Tile(name=name, value=f"{before[key]:.1%} → {after[key]:.1%}", note=note, kind=kind))
    wall = found.events[-1].get("time", 0.0) - found.events[0].get("time", 0.0) if found.events else 0.0
    tokens = f"in the steps; {figures.trained_tokens:,} with their contexts were trained on"
    made += [
        Tile(name="steps", value=f"{len(figures.steps):,}", note=f"{figures.versions:,} versions published"),
        Tile(name="trajectories", value=f"{len(found.rollouts):,}", note=f"{figures.trajectories:,} trained on"),
        Tile(name="sampled tokens", value=_short(figures.sampled_tokens), note=tokens),
        Tile(name="time", value=duration(wall), note=_when(found.events)),
    ]
    if found.books is not None:
        balanced = found.books.balanced
        value, kind = ("balance", "good") if balanced else ("do not balance", "bad")
        made.append(Tile(name="the books", value=value, note=f"{found.books.issued:,} leases issued", kind=kind))
    return made


def _when(events: Sequence[Mapping[str, Any]]) -> str:
    if not events or "time" not in events[0]:
        return ""
    return time.strftime("from %Y-%m-%d %H:%M UTC", time.gmtime(events[0]["time"]))


def _short(count: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {letter}"
    return f"{count:,.0f}"


# ------------------------------------------------------------------------------------------------ learning


def learning(found: Gathered) -> Section:
    """Rewards and success by step and version, with intervals."""
    figures, missing = [], []
    if found.figures.steps:
        figures.append(_training_curve(found))
    else:
        missing.append("No step was made yet: there is no learning curve.")
    evaluations = _evaluation_curve(found)
    if evaluations is None:
        missing.append("No evaluation was made: nothing is known of held-out tasks.")
    else:
        figures.append(evaluations)
    lead = (
        "Bands are 95 % intervals of a step's mean over its groups, drawn anew with replacement. Whiskers of "
        "evaluations are 95 % intervals for other scenarios of this kind: whole scenarios are drawn anew."
    )
    return Section(name="learning", title="Learning", lead=lead, figures=figures, missing=missing)


def _training_curve(found: Gathered) -> Figure:
    steps = [int(event["step"]) for event in found.figures.steps]
    rewards, successes = (
        by_step(found.training, steps, value) for value in (lambda one: one.reward, lambda one: float(one.success))
    )
    told = {int(event["step"]): event for event in found.figures.steps}
    made = []
    for name, key, shares_ in (("mean reward", "mean_reward", rewards), ("success", "success_share", successes)):
        middle = [told[step].get(key, shares_[step][0] if step in shares_ else None) for step in steps]
        low, high = ([shares_[step][side] if step in shares_ else None for step in steps] for side in (1, 2))
        made.append(Line(name=name, values=middle, low=low, high=high))
    rows = [
        [
            str(step),
            *(_with_interval(line, number) for line in made),
            f"{told[step].get('trajectories', 0):,}",
            f"{told[step]['mean_turns']:.2f}" if "mean_turns" in told[step] else "-",
        ]
        for number, step in enumerate(steps)
    ]
    return Figure(
        title="Training rollouts, by step",
        drawing=lines("training rollouts", steps, STEP, SHARE, made),
        legend=[line.name for line in made],
        note="At the run's training temperature, on the tasks that were drawn for the step.",
        table=Table(head=("step", "mean reward", "success", "trained on", "turns"), rows=rows),
    )


def _with_interval(line: Line, number: int) -> str:
    value, low, high = (part[number] if part else None for part in (line.values, line.low, line.high))
    between = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return "-" if value is None else f"{value:.3f}{between}"


def by_step(
    training: Sequence[Rollout], steps: Sequence[int], value: Callable[[Rollout], float]
) -> dict[int, tuple[float, float, float]]:
    """Mean of a step's rollouts, and the interval of it when whole groups are drawn anew."""
    groups: dict[int, dict[str, list[float]]] = {step: {} for step in steps}
    for rollout in training:
        fate = rollout.fate
        if fate is not None and fate.step in groups and fate.reason not in NOT_JUDGED:
            groups[fate.step].setdefault(rollout.group_id, []).append(value(rollout))
    made = {}
    for step, values in groups.items():
        if values:
            low, high = resampled([sum(one) for one in values.values()], [len(one) for one in values.values()])
            made[step] = (fmean(v for one in values.values() for v in one), low, high)
    return made


def _newest(event: Mapping[str, Any]) -> int:
    """The newest version that an evaluation sampled with."""
    newest = event.get("newest_version")
    return int(event["policy_version"] if newest is None else newest)


def _evaluation_curve(found: Gathered) -> Figure | None:
    evaluations = found.figures.evaluations
    if not evaluations:
        return None
    versions = sorted({_newest(event) for event in evaluations.values()})
    series: dict[str, dict[int, Mapping[str, Any]]] = {}
    for label, event in evaluations.items():
        parts = parts_of(label)
        name = "dev, on the way" if parts is None else f"{parts[2] or 'held-out'}, temperature {parts[1]}"
        series.setdefault(name, {})[_newest(event)] = event
    made = []
    for name, points in series.items():
        at = [points.get(version) for version in versions]
        intervals = [event.get("tgc_interval") if event else None for event in at]
        made.append(
            Line(
                name=name,
                values=[event["tgc"] if event else None for event in at],
                low=[interval[0] if interval else None for interval in intervals],
                high=[interval[1] if interval else None for interval in intervals],
                dots=True,
            )
        )
    rows = [
        [
            label,
            f"{event['policy_version']}",
            percent(event["tgc"], event.get("tgc_interval")),
            percent(event["sgc"], event.get("sgc_interval")),
            f"{event['mean_reward']:.3f}",
            f"{event.get('tasks', 0)}",
        ]
        for label, event in evaluations.items()
    ]
    return Figure(
        title="Evaluations, by policy version (TGC)",
        drawing=lines("evaluations", versions, Axis(title="policy version", form="{:.0f}"), SHARE, made),
        legend=[line.name for line in made],
        note="TGC: share of tasks whose tests all pass. SGC: share of scenarios all of whose tasks pass.",
        table=Table(head=("evaluation", "version", "TGC", "SGC", "mean reward", "tasks"), rows=rows),
    )


# ------------------------------------------------------------------------------------------------ scenarios


def tasks(found: Gathered) -> Section:
    """Success by scenario and by difficulty, before and after."""
    figures, missing = [], []
    for name in ("", *found.figures.lists_beside):
        labels = found.pair(name)
        if labels is not None:
            figures.append(_by_scenario(found, labels, name or "Held-out tasks"))
            if found.difficulty:
                figures.append(_by_difficulty(found, labels, name or "Held-out tasks"))
    if found.training:
        figures.append(_by_training(found))
    if not figures:
        missing.append("Nothing was rolled out yet.")
    if not found.difficulty and found.rollouts:
        missing.append("Difficulties are not known: the world that the run names is not on this machine.")
    lead = "Intervals are Wilson's, of a scenario's tasks as independent trials: with 4 to 6 tasks they are wide."
    return Section(name="tasks", title="Scenarios and difficulty", lead=lead, figures=figures, missing=missing)


def _by_scenario(found: Gathered, labels: tuple[str, str], name: str) -> Figure:
    before, after = (found.figures.evaluations[label].get("by_scenario", {}) for label in labels)
    rows = []
    for scenario in {**before, **after}:
        sides = (before.get(scenario), after.get(scenario))
        rows.append(
            Pair(
                name=scenario,
                values=(_of(sides[0], "tgc"), _of(sides[1], "tgc")),
                intervals=(_of(sides[0], "tgc_wilson"), _of(sides[1], "tgc_wilson")),
                note=_count(sides[1] or sides[0]),
            )
        )
    rows.sort(key=lambda row: (-(row.values[1] or 0.0), -(row.values[0] or 0.0), row.name))
    return _pairs(f"{name}, by scenario (TGC)", rows, labels)


def _of(figures: Mapping[str, Any] | None, key: str) -> Any:
    return None if figures is None else figures.get(key)


def _count(figures: Mapping[str, Any] | None) -> str:
    tasks = _of(figures, "tasks")
    return f"{tasks} tasks" if tasks else ""


def _by_difficulty(found: Gathered, labels: tuple[str, str], name: str) -> Figure:
    before, after = (found.by_difficulty(label) for label in labels)
    rows = [
        Pair(
            name=f"difficulty {level}",
            values=(_of(before.get(level), "tgc"), _of(after.get(level), "tgc")),
            intervals=(_of(before.get(level), "tgc_interval"), _of(after.get(level), "tgc_interval")),
            note=_count(after.get(level) or before.get(level)),
        )
        for level in sorted({**before, **after})
    ]
    return _pairs(f"{name}, by difficulty (TGC)", rows, labels)


def _by_training(found: Gathered) -> Figure:
    part = max(1, len(found.training) // PART_OF_TRAINING)
    names = ("first third", "last third")
    halves = (found.training[:part], found.training[-part:])
    rows = []
    for scenario in sorted({rollout.scenario for rollout in found.training}):
        sides = [[one.success for one in half if one.scenario == scenario] for half in halves]
        rows.append(
            Pair(
                name=scenario,
                values=(_mean(sides[0]), _mean(sides[1])),
                intervals=(_wilson(sides[0]), _wilson(sides[1])),
                note=f"{len(sides[0])} and {len(sides[1])} rollouts",
            )
        )
    rows.sort(key=lambda row: (-(row.values[1] or 0.0), -(row.values[0] or 0.0), row.name))
    return _pairs("Training rollouts, by scenario (success)", rows, names)


def _mean(values: Sequence[bool]) -> float | None:
    return fmean(values) if values else None


def _wilson(values: Sequence[bool]) -> list[float] | None:
    return wilson(fmean(values), len(values)) if values else None


def _pairs(title: str, rows: Sequence[Pair], names: tuple[str, str]) -> Figure:
    table = Table(
        head=("", *names, "of"),
        rows=[[row.name, *map(percent, row.values, row.intervals), row.note] for row in rows],
    )
    return Figure(title=title, drawing=pairs(title, rows, names), legend=names, table=table)


# ------------------------------------------------------------------------------------------------ books, behaviour


def accounts(found: Gathered) -> Section:
    """The books: issued = trained + evaluated + dropped (by reason) + pending (by state)."""
    lead = "Every lease ever issued is in exactly one line."
    if found.books is None:
        return Section(name="books", title="The books", missing=["This run has no ledger."])
    held = found.books
    parts = {"trained": held.trained, "evaluated": held.evaluated}
    parts |= {f"dropped: {reason.replace('_', ' ')}": count for reason, count in held.dropped.items()}
    parts |= {f"pending: {state}": count for state, count in held.pending.items()}
    rows = [[name, f"{count:,}", percent(count / held.issued if held.issued else 0.0)] for name, count in parts.items()]
    rows.append(["issued", f"{held.issued:,}", "the books balance" if held.balanced else "they do not balance"])
    table = Table(head=("lease", "count", "share of issued"), rows=rows)
    figure = Figure(
        title="What became of the leases",
        drawing=shares("what became of the leases", {name: float(count) for name, count in parts.items()}),
        legend=list(parts),
        wide=True,
    )
    return Section(
        name="books",
        title="The books",
        lead=lead,
        figures=[figure],
        tables=[("Leases", table)],
        missing=[f"Fault: {fault}" for fault in held.faults],
    )


def behaviour(sets: Sequence[Mapping[str, Any]], missing: Sequence[str] = ()) -> Section:
    """Measures of behaviour (common/behaviour.py), before and after; each set as `Counts.facts` besides a name."""
    title, lead = "Behaviour", "Counted as in the paper's appendix; its own change by training stands at the right."
    if not sets:
        return Section(name="behaviour", title=title, missing=missing or ["There is nothing to compare yet."])
    names = [f"{one['name']}, {one['episodes']} episodes" for one in sets]
    rows = []
    for said, key, form, paper in BEHAVIOUR:
        values = [one.get(key) for one in sets]
        change = f"x {values[1] / values[0]:.2f}" if len(values) == 2 and values[0] and values[1] is not None else ""
        rows.append([said, *("-" if value is None else form.format(value) for value in values), change, paper])
    kinds = {kind: None for one in sets for kind in one["failures"]}
    failed = [[kind, *(f"{one['failures'].get(kind, 0.0):.2%}" for one in sets)] for kind in kinds]
    return Section(
        name="behaviour",
        title=title,
        lead=lead,
        tables=[
            ("Measures", Table(head=("", *names, "change", "in the paper"), rows=rows)),
            ("Failed executions by kind, of turns whose outcome was seen", Table(head=("", *names), rows=failed)),
        ],
        missing=missing,
    )
