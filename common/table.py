"""The tables that `loop demo` ends with: success before and after by scenario, behaviour, where the seconds went."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.evaluation import label_of, parts_of
from common.figures import Event, Figures

MEASURES = {"TGC": "tgc", "SGC": "sgc", "mean reward": "mean_reward"}
# of behaviour: what a row says, the figure's name, its format, and its change by training in LOOP's paper
BEHAVIOUR = (
    ("TGC", "tgc", "{:.1%}", ""),
    ("mean reward", "mean_reward", "{:.3f}", ""),
    ("turns / episode", "turns", "{:.2f}", ""),
    ("sampled tokens / episode", "sampled_tokens", "{:.1f}", ""),
    ("code cells / turn", "cells_per_turn", "{:.3f}", ""),
    ("turns of several cells", "multi_cell_turns", "{:.2%}", "x 0.17"),
    ("turns without code", "no_code_turns", "{:.2%}", ""),
    ("show_api_doc / episode", "show_api_doc", "{:.2f}", "x 1.6"),
    ("show_api_descriptions / episode", "show_api_descriptions", "{:.2f}", ""),
    ("show_app_descriptions / episode", "show_app_descriptions", "{:.2f}", ""),
    ("failed executions / turn", "failed_turns", "{:.2%}", ""),
    ("words of assumption / episode", "assumption_words", "{:.3f}", "x 0.03"),
    ("dummy values / episode", "dummy_values", "{:.3f}", "x 0.17"),
    ("gave up / failing episode", "gave_up", "{:.1%}", "x 0.33"),
)
MOST_KINDS = 6  # of failures, shown


def show(
    figures: Figures, seconds: Mapping[str, float], wall: float, run: Path, behaviour: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Print what the run achieved to standard output; `behaviour` as `print_behaviour` takes it, if it was analysed."""
    console = Console()
    console.print(_evaluations("test_normal", figures.of_list()))
    for name in figures.lists_beside:
        console.print(_evaluations(name, figures.of_list(name)))
    if figures.online:
        console.print(_online(figures.online))
    console.print(_scenarios(figures))
    if behaviour:
        print_behaviour(behaviour, short=True)
    console.print(_seconds(seconds, wall))
    tokens = f"{figures.sampled_tokens:,} sampled tokens, {figures.trained_tokens:,} trained tokens"
    console.print(f"{figures.versions} versions from {figures.trajectories} trajectories, {tokens}", highlight=False)
    if figures.lags:
        lags = ", ".join(f"lag {lag}: {share:.1%}" for lag, share in figures.lags.items())
        console.print(f"staleness of the trained tokens, in policy versions: {lags}", highlight=False)
    console.print(
        f"run folder: {os.path.relpath(run)}: config, logs, metrics.jsonl, checkpoints, curve.png", highlight=False
    )


def print_behaviour(sets: Sequence[Mapping[str, Any]], *, short: bool = False) -> None:
    """Print measures of sets of trajectories side by side, as `Counts.facts` has them besides a name.

    `short`: without what is nothing in all of them, and without kinds of failures.
    """
    pair = len(sets) == 2
    table = Table(title="behaviour", title_justify="left")
    table.add_column("", no_wrap=True)
    for one in sets:
        table.add_column(f"{one['name']}\n{one['episodes']} episodes", justify="right")
    for name in ("change", "in the paper") if pair else ():
        table.add_column(name, justify="right")
    for said, key, form, paper in BEHAVIOUR:
        values = [one[key] for one in sets]
        if not short or any(values):
            cells = ["-" if value is None else form.format(value) for value in values]
            table.add_row(said, *cells, *((_change(*values), paper) if pair else ()))
    kinds = {} if short else {kind: None for one in sets for kind in list(one["failures"])[:MOST_KINDS]}
    table.add_section()
    for kind in kinds:
        values = [one["failures"].get(kind, 0.0) for one in sets]
        table.add_row(f"  failed: {kind}", *(f"{v:.2%}" for v in values), *((_change(*values), "") if pair else ()))
    Console().print(table)


def _change(before: float | None, after: float | None) -> str:
    """How many times as much it became."""
    return f"x {after / before:.2f}" if before and after is not None else ""


def _evaluations(title: str, evaluations: Mapping[str, Event]) -> Table:
    table = Table(title=f"held-out tasks ({title})", title_justify="left")
    table.add_column("")
    for label in evaluations:
        when, temperature, _ = parts_of(label) or (label, "", "")
        table.add_column(f"{when}, temperature {temperature}", justify="right")
    for measure, key in MEASURES.items():
        table.add_row(measure, *(f"{event[key]:.1%}" + _interval(event, key) for event in evaluations.values()))
    return table


def _online(evaluations: Mapping[int, Event]) -> Table:
    table = Table(title="dev, on the way", title_justify="left")
    for name in ("version", "sampled by", *MEASURES):
        table.add_column(name, justify="right")
    for version, event in evaluations.items():
        sampled_by = f"{event['policy_version']} to {event['newest_version']}"
        table.add_row(str(version), sampled_by, *(f"{event[key]:.1%}" for key in MEASURES.values()))
    return table


def _interval(event: Event, key: str) -> str:
    """Where a share would lie on other scenarios, 95 %."""
    found = event.get(f"{key}_interval")
    return f" ({found[0]:.0%} to {found[1]:.0%})" if found else ""


def _scenarios(figures: Figures) -> Table:
    """The main list's, then each one's beside it."""
    table = Table(title="by scenario, temperature 0 (TGC)", title_justify="left")
    table.add_column("scenario")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for name in ("", *figures.lists_beside):
        table.add_section()
        sides = [figures.evaluations.get(label_of(when, 0, name), {}) for when in ("before", "after")]
        before, after = (side.get("by_scenario", {}) for side in sides)
        for scenario in sorted({*before, *after}):
            cells = (f"{side[scenario]['tgc']:.0%}" if scenario in side else "-" for side in (before, after))
            table.add_row(scenario, *cells)
    return table


def _seconds(seconds: Mapping[str, float], wall: float) -> Table:
    table = Table(title="where the seconds went", title_justify="left")
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    for name, value in seconds.items():
        table.add_row(name.replace("_", " "), f"{value:.1f}")
    table.add_row("everything", f"{wall:.1f}")
    return table
