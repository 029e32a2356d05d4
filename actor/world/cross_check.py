"""Has AppWorld's own evaluation judge outputs of ours: files in, its verdicts out, its reports beside them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import RunError

WORDS = {True: "passed", False: "failed", None: "not judged"}
SCRIPT = Path(__file__).with_name("official_verdict.py")


@dataclass(frozen=True)
class OfficialVerdict:
    """What AppWorld's own evaluation says of an experiment's outputs."""

    success: Mapping[str, bool]  # by task
    tgc: float  # percent, to a tenth, as it prints them
    sgc: float


def official_verdict(python: Path, out: Path, experiment: str, dataset: str, tasks: Sequence[str]) -> OfficialVerdict:
    """The verdict on these tasks' outputs below `out`. Blocks: seconds for the engine, a part of one for each task.

    Raises:
        RunError: the engine cannot judge them; with what it said last.
    """
    done = subprocess.run(
        [str(python), "-P", "-s", str(SCRIPT), str(out.resolve()), experiment, dataset],
        input="\n".join(tasks),
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "PYTHONWARNINGS": "ignore",
            "PYTHONDONTWRITEBYTECODE": "1",  # the data are the user's
        },
    )
    try:
        told = json.loads(done.stdout.splitlines()[-1])
        total = told["aggregate"]
        return OfficialVerdict(
            {task: bool(verdict["success"]) for task, verdict in told["individual"].items()},
            float(total["task_goal_completion"]),
            float(total["scenario_goal_completion"]),
        )
    except (IndexError, ValueError, KeyError, TypeError):
        said = " | ".join(line.strip() for line in done.stderr.splitlines()[-3:])
        raise RunError(f"AppWorld's own evaluation of {out} ({experiment}) failed: {said}") from None


def differences(ours: Mapping[str, bool], theirs: OfficialVerdict, tgc: float, sgc: float) -> list[str]:
    """Where the two do not agree, in words. `ours`: success by task; `tgc`, `sgc`: shares from 0 to 1."""
    found = [
        f"{task}: {WORDS[success]} here, {WORDS[theirs.success.get(task)]} there"
        for task, success in sorted(ours.items())
        if theirs.success.get(task) != success
    ]
    for name, here, there in (("TGC", tgc, theirs.tgc), ("SGC", sgc, theirs.sgc)):
        if abs(100 * here - there) > 0.1:  # it rounds twice, to a hundredth and to a tenth of a percent
            found.append(f"{name}: {100 * here:.1f} here, {there:.1f} there")
    return found
