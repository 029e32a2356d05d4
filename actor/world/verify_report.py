"""`loop world verify`: has every task of a data root tried in many ways, and says for a person what was found.

Flows in: a data root. Flows out: a `Report`, printed as tables or as one JSON object.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from actor.world import relay
from actor.world.install import appworld_python
from actor.world.root import dataset_ids
from actor.world.show import task_ids
from common.errors import UsageError

KINDS = {"solution": "passes", "no-op": "fails", "wrong": "fails", "collateral": "fails"}
Report = dict[str, Any]


def verify_root(root: Path, dataset: str | None = None) -> Report:
    """Tries every task of the root, or of one of its data sets.

    Returns root, tasks, episodes, seconds; `scenarios`: per scenario tasks and by kind of trial [as it must, of];
    `damage`: by kind of collateral damage [how often it was tried, how often there was nothing to damage];
    `wrong`: what is not as it must be, each with task_id, kind, what, passes, failures; `unverified`: what could not be
    told, each with reason and number of tasks. UsageError: there is no such data set. RunError: the engine failed.
    """
    datasets = [dataset] if dataset is not None else [name for name, ids in task_ids(root).items() if ids]
    ids = list(dict.fromkeys(task_id for name in datasets for task_id in dataset_ids(root, name)))
    if not ids:
        raise UsageError(f"{root} has no data set with a task to verify")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "findings.json"
        request = json.dumps({"task_ids": ids, "workers": relay.workers()})
        words = [str(root), str(out), request]
        relay.run_module(appworld_python(), "actor.world.verify", words, "the world could not be verified")
        findings = json.loads(out.read_text(encoding="utf-8"))
    return {"root": str(root), **summary(findings), "seconds": round(time.monotonic() - started, 1)}


def summary(findings: list[dict[str, Any]]) -> Report:
    """What a person wants to know of the findings of `actor.world.verify`."""
    scenarios: dict[str, dict[str, Any]] = {}
    damage: dict[str, list[int]] = {}
    unverified: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    for finding in findings:
        task_id = finding["task_id"]
        counts = scenarios.setdefault(task_id.split("_")[0], {"tasks": 0, **{kind: [0, 0] for kind in KINDS}})
        counts["tasks"] += 1
        if "broken" in finding:
            wrong.append({"task_id": task_id, "kind": "broken", "what": finding["broken"]})
            continue
        tried = Counter(trial["kind"] for trial in finding["trials"])
        if not tried["solution"]:
            unverified["its ground truth holds no solution: only doing nothing was tried"] += 1
        for trial in finding["trials"]:
            if trial["kind"] == "collateral":
                seen = damage.setdefault(trial["what"], [0, 0])
                seen[0] += 1
                seen[1] += trial["idle"]
                if trial["idle"]:
                    continue
            counts[trial["kind"]][0] += trial["as_it_must"]
            counts[trial["kind"]][1] += 1
            if not trial["as_it_must"]:
                kept = {key: trial[key] for key in ("kind", "what", "passes", "failures")}
                seen = [turn["observation"] for turn in trial["turns"]]
                wrong.append({"task_id": task_id, **kept, **({"observed": seen} if seen else {})})
        if tried["solution"] and all(trial.get("idle", True) for trial in finding["trials"]):
            unverified["nothing was there to damage in what was tried"] += 1
    return {
        "tasks": len(findings),
        "episodes": sum(len(finding.get("trials", ())) for finding in findings),
        "scenarios": [{"scenario": name, **counts} for name, counts in scenarios.items()],
        "damage": {what: damage[what] for what in sorted(damage)},
        "wrong": wrong,
        "unverified": [{"reason": reason, "tasks": tasks} for reason, tasks in unverified.items()],
    }


def print_report(report: Report) -> None:
    """The report as a person reads it: a row per scenario, then what is not as it must be."""
    from rich.console import Console  # noqa: PLC0415 - slow to import, and not needed for JSON
    from rich.table import Table  # noqa: PLC0415

    console = Console()
    table = Table(title="trials that went as they must", title_justify="left")
    table.add_column("scenario", no_wrap=True)
    for name in ("tasks", *(f"{kind} {must}" for kind, must in KINDS.items())):
        table.add_column(name, justify="right")
    for row in report["scenarios"]:
        cells = [f"{well} of {of}" if of else "-" for well, of in (row[kind] for kind in KINDS)]
        style = "red" if any(well < of for well, of in (row[kind] for kind in KINDS)) else None
        table.add_row(row["scenario"], str(row["tasks"]), *cells, style=style)
    console.print(table)
    for one in report["wrong"]:
        console.print(f"[red]{one['task_id']}[/]", f"{one['kind']}: {one['what']}", _why(one), highlight=False)
    for one in report["unverified"]:
        console.print(f"{one['tasks']} tasks: {one['reason']}", highlight=False)
    idle = sum(nothing for _, nothing in report["damage"].values())
    told = f"{idle} kinds of damage found nothing to damage in their task" if idle else ""
    well = f"{len(report['wrong'])} not as they must be" if report["wrong"] else "all as they must be"
    text = f"{report['tasks']} tasks, {report['episodes']} episodes in {report['seconds']} s: {well}"
    console.print(f"{text}; {told}" if told else text, highlight=False)
    console.print(f"data root: {report['root']}", highlight=False, soft_wrap=True)


def _why(one: dict[str, Any]) -> str:
    if one["kind"] == "broken":
        return ""
    return f"fails {one['failures']}" if one["kind"] == "solution" else f"passes {one['passes']}"
