"""What `loop eval` prints for a person: TGC and SGC with intervals, in total, by difficulty, by scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def show(result: Mapping[str, Any]) -> None:
    """Print an evaluation's result to standard output."""
    console = Console()
    console.print(_shares(result))
    console.print(_scenarios(result["by_scenario"]))
    for one in result["lost"]:
        _say(console, f"lost: {one['task_id']}, rollout {one['rollout']}: {one['reason']}")
    if result["lost"]:
        _say(console, f"{len(result['lost'])} episodes were lost and are in no figure above; the same command goes on")
    told = result["appworld"]
    if "agrees" in told:
        _say(console, "AppWorld's own evaluation " + ("agrees" if told["agrees"] else "does not agree:"))
        for difference in told["differences"]:
            _say(console, f"  {difference}")
    for task in told.get("tampered", ()):
        _say(console, f"tampered: {task}: it counts as failed here, whatever AppWorld's own evaluation says of it")
    _say(console, f"{result['out']}: result.json, and experiments/outputs for AppWorld's tools:")
    _say(console, told.get("command", ""))


def _shares(result: Mapping[str, Any]) -> Table:
    title = f"{result['dataset']}, version {result['policy_version']}, temperature {result['temperature']:g}"
    caption = "95 %: on other scenarios like these; below: as if tasks were coin throws"
    table = Table(title=title, title_justify="left", caption=caption, box=SIMPLE_HEAD)
    for name in ("", "tasks", "scen.", "TGC", "95 %", "SGC", "95 %", "reward"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    rows = {f"difficulty {level}": figures for level, figures in result.get("by_difficulty", {}).items()}
    for name, figures in {"all": result, **rows}.items():
        cells: list[str] = [name, str(figures["tasks"]), str(figures["scenarios"])]
        for share in ("tgc", "sgc"):
            cells += [f"{figures[share]:.1%}", _intervals(figures[f"{share}_interval"], figures[f"{share}_wilson"])]
        table.add_row(*cells, f"{figures['mean_reward']:.3f}")
    return table


def _intervals(resampled: Sequence[float], plain: Sequence[float]) -> str:
    return "\n".join(f"{low:.0%} to {high:.0%}" for low, high in (resampled, plain))


def _scenarios(by_scenario: Mapping[str, Any]) -> Table:
    table = Table(title="by scenario", title_justify="left")
    for name in ("scenario", "tasks", "TGC", "all tasks", "mean reward"):
        table.add_column(name, justify="left" if name == "scenario" else "right")
    for name, figures in by_scenario.items():
        shares = (f"{figures['tgc']:.0%}", f"{figures['sgc']:.0%}", f"{figures['mean_reward']:.3f}")
        table.add_row(name, str(figures["tasks"]), *shares)
    return table


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
