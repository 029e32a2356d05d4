"""The tables that `loop demo` ends with: success before and after by scenario, where the seconds went."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.evaluation import label_of, parts_of
from common.figures import Event, Figures

MEASURES = {"TGC": "tgc", "SGC": "sgc", "mean reward": "mean_reward"}


def show(figures: Figures, seconds: Mapping[str, float], wall: float, run: Path) -> None:
    """Print what the run achieved to standard output."""
    console = Console()
    console.print(_evaluations("test_normal", figures.of_list()))
    for name in figures.lists_beside:
        console.print(_evaluations(name, figures.of_list(name)))
    if figures.online:
        console.print(_online(figures.online))
    console.print(_scenarios(figures))
    console.print(_seconds(seconds, wall))
    tokens = f"{figures.sampled_tokens:,} sampled tokens, {figures.trained_tokens:,} trained tokens"
    console.print(f"{figures.versions} versions from {figures.trajectories} trajectories, {tokens}", highlight=False)
    console.print(
        f"run folder: {os.path.relpath(run)}: config, logs, metrics.jsonl, checkpoints, curve.png", highlight=False
    )


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
