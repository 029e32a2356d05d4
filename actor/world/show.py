"""Prints a task, or the list of all scenarios, for a person: a data root in, text or one JSON object out."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from actor.world.root import DATASETS, listed
from common.errors import UsageError


def task_facts(root: Path, task_id: str) -> dict[str, Any]:
    """All that a person may want to know of a task. UsageError: there is no such task."""
    data = root / "full" / "data"
    folder = data / "tasks" / task_id
    if not task_id or "/" in task_id or not (folder / "specs.json").exists():
        known = [path.name for path in (data / "tasks").iterdir()]
        near = difflib.get_close_matches(task_id, known, n=1)
        hint = f"; the nearest is {near[0]}" if near else ""
        raise UsageError(f"there is no task {task_id} in {root}{hint}; 'loop world show' lists the scenarios")
    truth = folder / "ground_truth"
    specs, metadata = _read(folder / "specs.json"), _read(truth / "metadata.json")
    return {
        "task_id": task_id,
        "dataset": next((name for name, ids in task_ids(root).items() if task_id in ids), None),
        "instruction": specs["instruction"],
        "supervisor": specs["supervisor"],
        "apps": _apps(truth, metadata),
        "difficulty": metadata["difficulty"],
        "answer": _read(truth / "answer.json"),
        "solution": _solution(truth),
        "requirements": [test["requirement"] for test in _read(truth / "test_data.json")],
        "tests": (truth / "evaluation.py").read_text(encoding="utf-8"),
    }


def _apps(truth: Path, metadata: dict[str, Any]) -> list[str]:
    """A built world has them in the metadata; AppWorld's own data in a file, for train and dev."""
    file = truth / "required_apps.json"
    return list(metadata.get("apps") or (_read(file) if file.exists() else []))


def _solution(truth: Path) -> list[str]:
    """The cells of the reference solution; AppWorld's own is one file, for train and dev alone."""
    if (truth / "solution.json").exists():
        return list(_read(truth / "solution.json")["cells"])
    file = truth / "solution.py"
    return [file.read_text(encoding="utf-8")] if file.exists() else []


def task_ids(root: Path) -> dict[str, list[str]]:
    """Task ids by data set."""
    folder = root / "full" / "data" / "datasets"
    files = {name: folder / f"{name}.txt" for name in DATASETS}
    return {name: listed(file) for name, file in files.items() if file.exists()}


def scenario_facts(root: Path) -> list[dict[str, Any]]:
    """Per scenario: an example's instruction, difficulty and apps, and how many tasks each data set has of it."""
    by_dataset = task_ids(root)
    counts = {name: Counter(task_id.split("_")[0] for task_id in ids) for name, ids in by_dataset.items()}
    examples: dict[str, str] = {}
    for task_id in (task_id for ids in by_dataset.values() for task_id in ids):
        examples.setdefault(task_id.split("_")[0], task_id)
    facts = []
    for scenario, task_id in examples.items():
        example = task_facts(root, task_id)
        kept = {key: example[key] for key in ("instruction", "difficulty", "apps")}
        facts.append({"scenario": scenario, **kept, "tasks": {name: found[scenario] for name, found in counts.items()}})
    return facts


def print_task(facts: dict[str, Any]) -> None:
    """The task as a person reads it."""
    from rich.console import Console  # noqa: PLC0415 - slow to import, and not needed for JSON
    from rich.panel import Panel  # noqa: PLC0415
    from rich.syntax import Syntax  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console()
    who = facts["supervisor"]
    grid = Table.grid(padding=(0, 2))
    apps = ", ".join(facts["apps"]) or "supervisor"
    for name, value in (
        ("supervisor", f"{who['first_name']} {who['last_name']}, {who['email']}, phone {who['phone_number']}"),
        ("data set", facts["dataset"] or "none"),
        ("difficulty", str(facts["difficulty"])),
        ("apps", apps),
        ("answer", "none is asked for" if facts["answer"] is None else facts["answer"]),
    ):
        grid.add_row(f"[bold]{name}[/]", value)
    console.print(Panel(facts["instruction"], title=facts["task_id"], title_align="left"))
    console.print(grid)
    console.print("\n[bold]reference solution[/]")
    for number, cell in enumerate(facts["solution"], start=1):
        console.print(Panel(Syntax(cell, "python", word_wrap=True), title=f"cell {number}", title_align="left"))
    console.print("[bold]the tests require that[/]")
    for requirement in facts["requirements"]:
        console.print(f"  - {requirement}", highlight=False)
    console.print("\n[bold]how they test it[/]")
    console.print(Syntax(facts["tests"], "python", word_wrap=True))


def print_scenarios(facts: list[dict[str, Any]], root: Path) -> None:
    """The table of all scenarios."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title="tasks: train / dev / test_normal / test_challenge", title_justify="left")
    for name in ("scenario", "level", "apps", "tasks"):
        table.add_column(name, no_wrap=True)
    table.add_column("for example", ratio=1)
    for fact in facts:
        counts = " / ".join(str(fact["tasks"].get(name, 0)) for name in DATASETS)
        apps = ", ".join(fact["apps"]) or "supervisor"
        table.add_row(fact["scenario"], str(fact["difficulty"]), apps, counts, fact["instruction"])
    console = Console()
    console.print(table)
    console.print(f"data root: {root}", highlight=False, soft_wrap=True)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
