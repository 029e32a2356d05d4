"""For `loop doctor`: GPUs and their driver, as nvidia-smi tells them, and what a build of torch can do with them.

Torch is asked in a process of its own: this package never imports it.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.doctor_python import run
from common.finding import Finding, error, ok, warning

MIB = 1 << 20
SMI_SECONDS = 20.0
COLUMNS = ("index", "name", "memory.total", "memory.free", "driver_version")
QUERY = ["nvidia-smi", f"--query-gpu={','.join(COLUMNS)}", "--format=csv,noheader,nounits"]
# for `doctor_python.ask`, after the imports that a side needs
TORCH_FACTS = """
import json, torch
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": torch.cuda.device_count()}))
"""


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine, as the driver numbers it."""

    index: int
    name: str
    total: int  # bytes
    free: int  # bytes


@dataclass(frozen=True)
class Gpus:
    """What nvidia-smi says."""

    found: Sequence[Gpu] = ()
    driver: str = ""
    failure: str = ""  # why it says nothing, though it is there


def look() -> Gpus:
    """Those of this machine; none where there is no nvidia-smi."""
    if shutil.which(QUERY[0]) is None:
        return Gpus()
    said, failure = run(QUERY, SMI_SECONDS)
    if failure:
        return Gpus(failure=failure)
    rows = [[word.strip() for word in line.split(",")] for line in said.splitlines() if line.strip()]
    try:
        found = [Gpu(int(row[0]), row[1], int(row[2]) * MIB, int(row[3]) * MIB) for row in rows]
    except (ValueError, IndexError):
        return Gpus(failure=f"it said {said[:200]!r}")
    return Gpus(found, rows[0][4] if rows else "")


def judge(gpus: Gpus, wanted: Collection[int] | None, *, cuda: bool, what: str) -> Finding | None:
    """What is wrong with the GPUs themselves for `what` (vLLM, torch), which is built for CUDA or not; None: nothing.

    `wanted`: the numbers that the configuration names; None: any.
    """
    if gpus.failure:
        remedy = "mend the driver (a restart, after an upgrade of it); without GPUs uninstall it"
        return (error if cuda else warning)(f"nvidia-smi fails: {gpus.failure}", remedy)
    if cuda and not gpus.found:
        remedy = "install the driver, or what configs/requirements/cpu.txt lists"
        return error(f"none (no nvidia-smi), but {what} is the build for CUDA", remedy)
    if not cuda and gpus.found:
        text = f"{len(gpus.found)} x {gpus.found[0].name} lie idle: {what} is the build for CPUs"
        return warning(text, "in a virtualenv for GPUs: pip install -e '.[gpu]'")
    missing = sorted(set(wanted or ()) - {gpu.index for gpu in gpus.found})
    if cuda and missing:
        return error(
            f"there is no GPU {missing[0]}; nvidia-smi lists {len(gpus.found)}", "set actor.engine.gpus to others"
        )
    return None


def usable(gpus: Gpus, facts: Mapping[str, Any], what: str) -> Finding:
    """Whether torch sees what the driver has."""
    built = facts["cuda"]
    if built is None:
        return ok(f"none; {what} is the build for CPUs")
    if not facts["gpus"]:
        text = f"torch {facts['torch']} sees none of {len(gpus.found)} (driver {gpus.driver}, built for CUDA {built})"
        return error(text, f"upgrade the driver to one for CUDA {built}, and look at CUDA_VISIBLE_DEVICES")
    names = ", ".join(sorted({gpu.name for gpu in gpus.found}))
    return ok(f"{facts['gpus']} usable ({names}), driver {gpus.driver}, CUDA {built}")
