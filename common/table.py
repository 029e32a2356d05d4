"""The tables that `loop demo` ends with: success before and after by scenario, where the seconds went."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.figures import Figures

MEASURES = {"TGC": "tgc", "SGC": "sgc", "mean reward": "mean_reward"}


def show(figures: Figures, seconds: Mapping[str, float], wall: float, run: Path) -> None:
    """Print what the run achieved to standard output."""
    console = Console()
    console.print(_evaluations(figures))
    console.print(_scenarios(figures))
    console.print(_seconds(seconds, wall))
    tokens = f"{figures.sampled_tokens:,} sampled tokens, {figures.trained_tokens:,} trained tokens"
    console.print(f"{figures.versions} versions from {figures.trajectories} trajectories, {tokens}", highlight=False)
    console.print(
        f"run folder: {os.path.relpath(run)}: config, logs, metrics.jsonl, checkpoints, curve.png", highlight=False
    )


def _evaluations(figures: Figures) -> Table:
    labels = sorted(figures.evaluations, key=lambda label: (label.partition(".")[2], label.startswith("after")))
    table = Table(title="held-out tasks (test_normal)", title_justify="left")
    table.add_column("")
    for label in labels:
        when, _, temperature = label.partition(".t")
        table.add_column(f"{when}, temperature {temperature}", justify="right")
    for title, key in MEASURES.items():
        table.add_row(title, *(f"{figures.evaluations[label][key]:.1%}" for label in labels))
    return table


def _scenarios(figures: Figures) -> Table:
    table = Table(title="by scenario, temperature 0 (TGC)", title_justify="left")
    table.add_column("scenario")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    before = figures.evaluations.get("before.t0", {}).get("by_scenario", {})
    after = figures.evaluations.get("after.t0", {}).get("by_scenario", {})
    for name in sorted({*before, *after}):
        cells = (f"{side[name]['tgc']:.0%}" if name in side else "-" for side in (before, after))
        table.add_row(name, *cells)
    return table


def _seconds(seconds: Mapping[str, float], wall: float) -> Table:
    table = Table(title="where the seconds went", title_justify="left")
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    for name, value in seconds.items():
        table.add_row(name.replace("_", " "), f"{value:.1f}")
    table.add_row("everything", f"{wall:.1f}")
    return table
