"""What the page says of how the run went: staleness and ratios, throughput and where the time goes. Pure.

Flows in: `Gathered`. Flows out: two sections. The names are those of metrics.jsonl (learner/trainer/diagnostics.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from common.figures import Event, mean_lag
from learner.report.chart import Axis, Line, lines, shares, stacks
from learner.report.gather import Gathered, Rollout
from learner.report.sections import STEP, Figure, Section, Table, duration, percent

RATIOS = (
    ("ratio_mean", "mean ratio", "{:.5f}"),
    ("ratio_max", "largest ratio", "{:.3f}"),
    ("clip_share", "clipped", "{:.2%}"),
    ("kl_k1", "KL, k1", "{:.2e}"),
    ("kl_k3", "KL, k3", "{:.2e}"),
    ("ess", "effective sample size", "{:.4f}"),
    ("entropy", "entropy", "{:.3f}"),
)
MINUTES = Axis(title="minutes since the run began", form="{:g}")
MOST_POINTS = 240  # of a curve over time
MOST_BARS = 120


def staleness(found: Gathered) -> Section:
    """How old the tokens were, and what the ratios say of it."""
    steps = found.figures.steps
    title = "Staleness and ratios"
    if not steps:
        return Section(name="staleness", title=title, missing=["No step was made yet."])
    lead = (
        "Lag: the learner's policy version before the step minus the version that sampled a token. Ratio: the "
        "learner's probability of a token by the one that the engine recorded when it sampled it."
    )
    missing = [] if any(step.get("ratios") for step in steps) else ["This run recorded no ratios."]
    figures = [_lags(steps)]
    if not missing:
        figures += [
            _curves(
                "Clipped tokens, share",
                steps,
                (("clip_share", "share without gradient because of the clip"),),
                "{:.3f}",
            ),
            _curves("Ratio", steps, (("ratio_mean", "mean"), ("ratio_max", "largest")), "{:.2f}"),
            _curves("KL(behaviour || policy), nats a token", steps, (("kl_k1", "k1"), ("kl_k3", "k3")), "{:.1e}"),
            _curves("Entropy at sampled tokens, nats", steps, (("entropy", "entropy"),), "{:.2f}"),
            _curves("Effective sample size, share of tokens", steps, (("ess", "ess"),), "{:.4f}"),
        ]
    split = _split(steps)
    figures += [split] if split is not None else []
    tables = [("By lag, all steps", _by_lag(steps))] if not missing else []
    return Section(name="staleness", title=title, lead=lead, figures=figures, tables=tables, missing=missing)


def _x(steps: Sequence[Event]) -> list[float]:
    return [float(step["step"]) for step in steps]


def _lags(steps: Sequence[Event]) -> Figure:
    kinds = sorted({int(lag) for step in steps for lag in step.get("lags", {})})
    thin = steps[:: max(1, -(-len(steps) // MOST_BARS))]
    parts = {
        f"lag {lag}": [
            step.get("lags", {}).get(str(lag), 0) / max(1, sum(step.get("lags", {}).values())) for step in thin
        ]
        for lag in kinds
    }
    share = Axis(title="share of tokens", form="{:.0%}", low=0.0, high=1.0)
    rows = [
        [str(step["step"]), *(f"{step.get('lags', {}).get(str(lag), 0):,}" for lag in kinds), f"{mean_lag(step):.2f}"]
        for step in steps
    ]
    skipped = f" Every {len(steps) // len(thin)}th step is drawn." if len(thin) < len(steps) else ""
    return Figure(
        title="Policy-version lag of the trained tokens",
        drawing=stacks("lag of the trained tokens", _x(thin), STEP, share, parts),
        legend=list(parts),
        note="Share of a step's tokens by lag." + skipped,
        table=Table(head=("step", *(f"lag {lag}" for lag in kinds), "mean lag"), rows=rows),
    )


def _curves(title: str, steps: Sequence[Event], names: Sequence[tuple[str, str]], form: str) -> Figure:
    series = [
        Line(name=said, values=[_finite(step.get("ratios", {}).get(key)) for step in steps]) for key, said in names
    ]
    rows = [
        [str(step["step"]), *("-" if (v := line.values[at]) is None else form.format(v) for line in series)]
        for at, step in enumerate(steps)
    ]
    return Figure(
        title=title,
        drawing=lines(title, _x(steps), STEP, Axis(title=title, form=form), series),
        legend=[line.name for line in series],
        table=Table(head=("step", *(line.name for line in series)), rows=rows),
    )


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _split(steps: Sequence[Event]) -> Figure | None:
    """Staleness told from mismatch, where log-probs were recomputed."""
    told = [step for step in steps if step.get("recomputed", {}).get("mismatch")]
    if not told:
        return None
    series = [
        Line(name=name, values=[_finite(step["recomputed"].get(name, {}).get("mean")) for step in told])
        for name in ("staleness", "mismatch")
    ]
    rows = [
        [str(step["step"]), *(f"{line.values[at] or 0.0:.2e}" for line in series), f"{step['recomputed']['tokens']:,}"]
        for at, step in enumerate(told)
    ]
    axis = Axis(title="mean |log-ratio|, nats", form="{:.1e}")
    return Figure(
        title="Log-ratio, split: mean |x|, nats",
        drawing=lines("staleness and mismatch", _x(told), STEP, axis, series),
        legend=[line.name for line in series],
        note="Staleness: what the policy has moved since the token was sampled. Mismatch: what engine and learner "
        "compute differently under the very same version. Of a drawn share of the trajectories.",
        table=Table(head=("step", "staleness", "mismatch", "tokens"), rows=rows),
    )


def _by_lag(steps: Sequence[Event]) -> Table:
    """Ratios pooled over steps, by lag: means weighted by tokens, the largest of the largest."""
    pooled: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for step in steps:
        for lag, figures in step.get("ratios", {}).get("by_lag", {}).items():
            pooled[int(lag)].append(figures)
    rows = []
    for lag, parts in sorted(pooled.items()):
        tokens = sum(part["tokens"] for part in parts)
        row = [str(lag), f"{tokens:,}"]
        for key, _, form in RATIOS:
            known = [part for part in parts if isinstance(part.get(key), int | float)]
            if not known:
                row.append("-")
            elif key == "ratio_max":
                row.append(form.format(max(part[key] for part in known)))
            else:
                weight = sum(part["tokens"] for part in known)
                row.append(form.format(sum(part[key] * part["tokens"] for part in known) / max(1, weight)))
        rows.append(row)
    return Table(head=("lag", "tokens", *(said for _, said, _ in RATIOS)), rows=rows)


# ------------------------------------------------------------------------------------------------ throughput


def throughput(found: Gathered) -> Section:
    """Where the time goes: the run's phases, a step's parts, an episode's parts; tokens by second."""
    figures = []
    if found.figures.phase_seconds:
        figures.append(_phases(found.figures.phase_seconds))
    if any(step.get("seconds") for step in found.figures.steps):
        figures.append(_step_parts(found.figures.steps))
    if found.rollouts:
        figures.append(_episode_parts(found.rollouts))
    rates = found.of_kind("rollouts")
    if len(rates) > 1:
        figures += [_rates(found, rates), _queues(found, rates)]
    reloads = _reloads(found.of_kind("reload"))
    missing = [] if figures else ["Nothing was measured yet."]
    tables = [("Reloads of new versions, by actor", reloads)] if reloads.rows else []
    return Section(
        name="throughput", title="Throughput and time", figures=figures, tables=tables, missing=missing,
    )  # fmt: skip


def _phases(seconds: Mapping[str, float]) -> Figure:
    parts = {name.replace("_", " "): value for name, value in seconds.items()}
    total = sum(parts.values())
    rows = [[name, duration(value), percent(value / total if total else 0.0)] for name, value in parts.items()]
    return Figure(
        title=f"The run's phases, {duration(total)} in sum",
        drawing=shares("phases of the run", parts, "{:.1f} s"),
        legend=list(parts),
        table=Table(head=("phase", "time", "share"), rows=rows),
        wide=True,
    )


def _step_parts(steps: Sequence[Event]) -> Figure:
    told = [step for step in steps if step.get("seconds")]
    names = list(dict.fromkeys(name for step in told for name in step["seconds"]))
    thin = told[:: max(1, -(-len(told) // MOST_BARS))]
    parts = {name.replace("_", " "): [float(step["seconds"].get(name, 0.0)) for step in thin] for name in names}
    means = [fmean(float(step["seconds"].get(name, 0.0)) for step in told) for name in names]
    whole = sum(means) or 1.0
    rows = [[part, f"{mean:.2f} s", percent(mean / whole)] for part, mean in zip(parts, means, strict=True)]
    return Figure(
        title="The learner's step, seconds",
        drawing=stacks("the learner's step", _x(thin), STEP, Axis(title="seconds", form="{:.1f}"), parts),
        legend=list(parts),
        note="Wait: for groups from the actors.",
        table=Table(head=("part", "mean of a step", "share"), rows=rows),
    )


def _episode_parts(rollouts: Sequence[Rollout]) -> Figure:
    by_version: dict[int, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        by_version[rollout.newest_version].append(rollout)
    versions = sorted(by_version)
    thin = versions[:: max(1, -(-len(versions) // MOST_BARS))]

    def parts_of(some: Sequence[Rollout]) -> tuple[float, float, float]:
        engine, world = fmean(one.engine_seconds for one in some), fmean(one.world_seconds for one in some)
        return engine, world, max(0.0, fmean(one.seconds for one in some) - engine - world)

    names = ("engine: waits for tokens", "world: waits for code to run", "the rest")
    drawn = [parts_of(by_version[version]) for version in thin]
    parts = {name: [one[number] for one in drawn] for number, name in enumerate(names)}
    whole = parts_of(rollouts)
    total = sum(whole) or 1.0
    rows = [[name, f"{value:.2f} s", percent(value / total)] for name, value in zip(names, whole, strict=True)]
    return Figure(
        title="An actor's episode, seconds",
        drawing=stacks(
            "an actor's episode",
            [float(version) for version in thin],
            Axis(title="policy version", form="{:.0f}"),
            Axis(title="seconds", form="{:.1f}"),
            parts,
        ),
        legend=names,
        note="Mean of the episodes that ended on a version. Many run at a time.",
        table=Table(head=("part", "mean of an episode", "share"), rows=rows),
    )


def _rates(found: Gathered, rates: Sequence[Event]) -> Figure:
    return _over_time(
        found, rates, "Tokens sampled a second, all actors", (("tokens_per_second", "tokens a second"),), "{:.0f}"
    )


def _queues(found: Gathered, rates: Sequence[Event]) -> Figure:
    names = (("leased", "leases out"), ("ready_groups", "groups ready"), ("actors", "actors"))
    return _over_time(found, rates, "Leases, groups, actors", names, "{:.0f}")


def _over_time(
    found: Gathered, rates: Sequence[Event], title: str, names: Sequence[tuple[str, str]], form: str
) -> Figure:
    began = float(found.events[0].get("time", 0.0))
    size = -(-len(rates) // MOST_POINTS)
    chunks = [rates[at : at + size] for at in range(0, len(rates), size)]
    minutes = [(float(chunk[-1].get("time", began)) - began) / 60 for chunk in chunks]
    series = [
        Line(name=said, values=[fmean(float(one.get(key, 0) or 0) for one in chunk) for chunk in chunks])
        for key, said in names
    ]
    rows = [
        [said, form.format(fmean(_known(line))), form.format(max(_known(line)))]
        for (_, said), line in zip(names, series, strict=True)
    ]
    return Figure(
        title=title,
        drawing=lines(title, minutes, MINUTES, Axis(title=title, form=form, low=0.0), series),
        legend=[line.name for line in series],
        table=Table(head=("", "mean", "most"), rows=rows),
    )


def _known(line: Line) -> list[float]:
    return [value for value in line.values if value is not None] or [0.0]


def _reloads(events: Sequence[Event]) -> Table:
    by_actor: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_actor[str(event.get("actor", ""))].append(event)
    rows = []
    for actor, some in sorted(by_actor.items()):
        taken = f"{sum(bool(event.get('accepted')) for event in some)} of {len(some)}"
        difference = max(_values(some, "probe_difference"))
        rows.append([actor, taken, _mean_and_most(some, "seconds"), _mean_and_most(some, "pause_seconds")])
        rows[-1].append(f"{difference:.1e}")
    return Table(head=("actor", "accepted", "reload", "pause of sampling", "largest probe difference, nats"), rows=rows)


def _values(events: Sequence[Event], key: str) -> list[float]:
    return [float(event.get(key) or 0.0) for event in events]


def _mean_and_most(events: Sequence[Event], key: str) -> str:
    values = _values(events, key)
    return f"{fmean(values):.2f} s (most {max(values):.2f})"
