"""A process's figures: a table of measures, which says what each means, and values for them as Prometheus has them.

table (Measure, ...) ─┐
Figures ──────────────┴─► families ─► exporter         table ─► page ─► docs/metrics.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


@dataclass(frozen=True)
class Measure:
    """One metric. Names end as Prometheus' conventions ask: in the unit, and counters in `_total`."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    meaning: str  # with the unit where the name does not end in it
    labels: tuple[str, ...] = ()  # besides those that all of a process's metrics have; few and bounded
    bounds: tuple[int, ...] = ()  # of a histogram's buckets, the last but the infinite one


@dataclass(frozen=True)
class Split:
    """A metric's values by those of its labels."""

    values: Mapping[tuple[str, ...], float]


@dataclass(frozen=True)
class Counts:
    """How often each whole number was observed, for a histogram."""

    values: Mapping[int, int]


Value = float | Split | Counts | None  # None: not known yet


@dataclass(frozen=True)
class Figures:
    """Values by the measure's name, and the labels that all of them have. Made in one thread, read in another."""

    values: Mapping[str, Value] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def families(table: Sequence[Measure], figures: Figures) -> Iterator[Metric]:
    """Every measure of a table; those without a value have no sample."""
    unknown = figures.values.keys() - {measure.name for measure in table}
    assert not unknown, f"no measure is called {sorted(unknown)}"
    for measure in table:
        yield _family(measure, figures.values.get(measure.name), figures.labels)


def _family(measure: Measure, value: Value, shared: Mapping[str, str]) -> Metric:
    names, own = [*shared, *measure.labels], list(shared.values())
    if isinstance(value, Counts):
        histogram = HistogramMetricFamily(measure.name, measure.meaning, labels=names)
        histogram.add_metric(own, _buckets(measure.bounds, value.values), sum(n * c for n, c in value.values.items()))
        return histogram
    if measure.kind == "histogram":
        assert value is None, f"{measure.name} has counts"
        return HistogramMetricFamily(measure.name, measure.meaning, labels=names)
    kind = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
    family = kind(measure.name, measure.meaning, labels=names)
    if isinstance(value, Split):
        for of_labels, one in value.values.items():
            assert len(of_labels) == len(measure.labels), f"{measure.name} has the labels {measure.labels}"
            family.add_metric([*own, *of_labels], one)
    elif value is not None:
        assert not measure.labels, f"{measure.name} has the labels {measure.labels}"
        family.add_metric(own, value)
    return family


def _buckets(bounds: Sequence[int], counts: Mapping[int, int]) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus has them: how many were at most the bound."""
    buckets = [(str(bound), float(sum(c for n, c in counts.items() if n <= bound))) for bound in bounds]
    return [*buckets, ("+Inf", float(sum(counts.values())))]


def rows(table: Sequence[Measure]) -> list[str]:
    """The table for a person, as lines of Markdown."""
    lines = ["| metric | kind | labels | what it is |", "|---|---|---|---|"]
    for measure in table:
        labels = ", ".join(f"`{label}`" for label in measure.labels)
        lines.append(f"| `{measure.name}` | {measure.kind} | {labels} | {measure.meaning} |")
    return lines
