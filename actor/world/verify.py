"""Verifies tasks through the engine: tries each in many ways, grades what was left. Runs in AppWorld's virtualenv.

    PYTHONHASHSEED=0 PYTHON -m actor.world.verify ROOT OUT '{"task_ids": ["likeSong_1"], "workers": 2}'

Flows in: a data root and task ids. Flows out: per task a `Finding`, in OUT as JSON, and progress as JSON lines on
standard output. The solution must pass all tests, doing nothing none that says "no_op_fail", and neither a wrong way
nor damage beside the solution may pass all. Playing and grading patch the engine differently, so each is a process of
its own.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actor.world import engine, grade
from actor.world.rehearse import FAILED, play, warm_engine
from actor.world.share import in_child, say, share
from actor.world.ways import Way, read_subject, ways

ACCOUNTS = ("supervisor", "show_account_passwords")
COLLECT_EVERY = 32  # tasks between two full collections
EVERYTHING = {"wrong": None, "own": 3, "other": 1}  # what `loop world verify` tries
AT_BUILD = {"wrong": 0, "own": 1, "other": 0}  # what `loop world build` tries besides: about 60 core-ms an episode
Trial = dict[str, Any]  # kind, what, turns, changes; graded: success, passes, failures
Finding = dict[str, Any]  # task_id, trials; broken: why it could not be tried


def verify(data: Path, task_ids: Sequence[str], workers: int, trying: Mapping[str, int | None]) -> list[Finding]:
    """What was found of each task. A task that cannot be opened, played or graded says so in `broken`."""
    played = in_child(lambda: _play_all(data, task_ids, workers, trying))
    graded = in_child(lambda: _grade_all(played, workers))
    return [_found(play, verdicts) for play, verdicts in zip(played, graded, strict=True)]


def complaint(finding: Finding) -> str | None:
    """What is not as it must be with a task, in one line that names task and requirement; None when all is well."""
    task_id = finding["task_id"]
    if "broken" in finding:
        return f"{task_id} cannot be verified: {finding['broken']}"
    for trial in finding["trials"]:
        if trial["as_it_must"]:
            continue
        if trial["kind"] == "solution":
            seen = [turn["observation"] for turn in trial["turns"]]
            return f"the reference solution of {task_id} fails {trial['failures']}; it observed {seen}"[:2000]
        if trial["kind"] == "no-op":
            return f"doing nothing in {task_id} passes {trial['passes']}"
        if trial["kind"] == "wrong":
            return f"a wrong way passes all tests of {task_id}: {trial['what']}"
        return f"collateral damage passes all tests of {task_id}: {trial['what']}"
    return None


# ------------------------------------------------------------------------------------------------ playing


def _play_all(
    data: Path, task_ids: Sequence[str], workers: int, trying: Mapping[str, int | None]
) -> list[dict[str, Any]]:
    warm_engine(task_ids[0])
    count = itertools.count(1)

    def play_task(task_id: str) -> dict[str, Any]:
        if next(count) % COLLECT_EVERY == 0:
            gc.collect()
        try:
            return {"task_id": task_id, "trials": _try(data / "tasks" / task_id, trying)}
        except Exception as error:  # noqa: BLE001 - what is broken about one task is a finding, and the others go on
            return {"task_id": task_id, "broken": _told(error)}

    return share("tasks_played", task_ids, workers, play_task)


def _try(task: Path, trying: Mapping[str, Any]) -> list[Trial]:
    template = engine.Template(task.name)
    try:
        accounts = in_child(lambda: [row["account_name"] for row in template.world.requester.request(*ACCOUNTS)])
        tried = ways(read_subject(task, accounts), **trying)
        records = play(template, [way.player for way in tried])
    finally:
        template.close()
    return [_trial(way, record) for way, record in zip(tried, records, strict=True)]


def _trial(way: Way, record: dict[str, Any]) -> Trial:
    failed = any(turn["observation"].startswith(FAILED) for turn in record["turns"])
    kept = record["turns"] if way.kind == "solution" else []
    return {"kind": way.kind, "what": way.what, "failed": failed, "turns": kept, "changes": record["changes"]}


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


# ------------------------------------------------------------------------------------------------ grading


def _grade_all(played: Sequence[dict[str, Any]], workers: int) -> list[dict[str, Any]]:
    engine.accelerate_grading()
    grade.quicken_switches()

    def verdicts(play: dict[str, Any]) -> dict[str, Any]:
        if "broken" in play:
            return {}
        try:
            graded = grade.GradedTask(play["task_id"])
            try:
                found = [graded.grade(trial["changes"]) for trial in play["trials"]]
                return {"untouched": graded.grade([]), "verdicts": found}
            finally:
                graded.close()
        except Exception as error:  # noqa: BLE001 - broken tests are a finding, and the other tasks go on
            return {"broken": _told(error)}

    return share("tasks_graded", played, workers, verdicts)


def _found(play: dict[str, Any], graded: dict[str, Any]) -> Finding:
    if "broken" in play or "broken" in graded:
        return {"task_id": play["task_id"], "broken": play.get("broken") or graded["broken"]}
    trials = [_judged(trial, verdict) for trial, verdict in zip(play["trials"], graded["verdicts"], strict=True)]
    trials.append(_judged({"kind": "no-op", "what": "does nothing at all", "turns": []}, graded["untouched"]))
    solution = next((trial for trial in trials if trial["kind"] == "solution"), None)
    for trial in trials:
        if trial["kind"] == "collateral":  # nothing was there to damage, or it was not allowed: it says nothing
            trial["idle"] = trial["failed"] or solution is None or _extent(trial) <= _extent(solution)
            trial["as_it_must"] |= trial["idle"]
    kept = ("kind", "what", "turns", "success", "passes", "failures", "idle", "as_it_must")
    trials = [{key: trial[key] for key in kept if key in trial} for trial in trials]
    return {"task_id": play["task_id"], "trials": trials}


def _judged(trial: Trial, verdict: dict[str, Any]) -> Trial:
    earned = [one["requirement"] for one in verdict["passes"] if one["label"] != "no_op_pass"]
    if trial["kind"] == "solution":
        well = bool(verdict["success"])
    elif trial["kind"] == "no-op":
        well = not verdict["success"] and not earned
    else:
        well = not verdict["success"]
    failures = [one["requirement"] for one in verdict["failures"]]
    return {**trial, "success": bool(verdict["success"]), "passes": earned, "failures": failures, "as_it_must": well}


def _extent(trial: Trial) -> int:
    """How many statements changed a database."""
    return sum(len(statements) for turn in trial["changes"] for statements in turn["changes"].values())


def main(argv: Sequence[str]) -> int:
    """Verifies what it is told to, in the root's side that holds the tests."""
    root, out, arguments = Path(argv[0]), Path(argv[1]), json.loads(argv[2])
    with tempfile.TemporaryDirectory() as scratch:
        engine.set_paths(root / "full", Path(scratch))
        try:
            data = root / "full" / "data"
            findings = verify(data, arguments["task_ids"], arguments["workers"], EVERYTHING)
        except RuntimeError as error:
            say("failed", reason=str(error))
            return 1
    out.write_text(json.dumps(findings))
    say("tasks_verified", tasks=len(findings))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
