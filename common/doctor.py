"""`loop doctor`: whether this machine can do its part of a run, a line a check, with the remedy where it cannot.

What both sides share is checked by common/doctor_*.py, the rest by actor/doctor.py and learner/doctor.py, which are
imported by name when used. Whatever may hang or break is asked in a process of its own: a broken part costs its line.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from common import doctor_python
from common.finding import Check, Finding, error

if TYPE_CHECKING:
    from common.config import Loaded

USAGE = """usage: loop doctor [--config FILE] [--actor | --learner] [--json] [--section.key value ...]

Checks this machine for a run: each line is ok, a warning or an error, with what to do about it. What a run needs
besides the machine (keys, a model, task lists, a learner that answers) may lack still where nothing is said of one:
neither --config nor a side nor another option.
Exit codes: 0 no error, 1 an error, 2 wrong usage or configuration."""
FLAGS = {
    "actor": "what an actor needs alone",
    "learner": "what a learner needs alone",
    "json": "one JSON object on standard output",
}
SIDES = {"actor": "actor.doctor", "learner": "learner.doctor"}
COLOURS = {"ok": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
PLAIN = "\x1b[0m"


class Report:
    """Findings as they come: a line each for a person, or all of them at the end as one JSON object."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._found: list[dict[str, Any]] = []

    def add(self, check: Check, finding: Finding, seconds: float) -> None:
        """One more."""
        self._found.append({"check": check.name, **asdict(finding), "seconds": round(seconds, 3)})
        if self._as_json:
            return
        colour, plain = (COLOURS[finding.state], PLAIN) if sys.stdout.isatty() else ("", "")
        sys.stdout.write(f"{colour}{finding.state:<8}{plain} {check.name:<22} {finding.text}\n")
        if finding.remedy:
            sys.stdout.write(f"{'':<31} -> {finding.remedy}\n")
        sys.stdout.flush()

    def conclude(self, sides: Sequence[str]) -> int:
        """The sum, and the exit code."""
        states = [line["state"] for line in self._found]
        errors, warnings = states.count("error"), states.count("warning")
        if self._as_json:
            facts = {"ok": not errors, "sides": list(sides), "errors": errors, "warnings": warnings}
            sys.stdout.write(json.dumps({**facts, "checks": self._found}) + "\n")
        else:
            sys.stdout.write(f"{len(states)} checks: {errors} errors, {warnings} warnings\n")
        return 1 if errors else 0


def main(argv: Sequence[str]) -> int:
    """Check, a line each. Exit code 1 when one of them is an error. Raises UsageError for a wrong configuration."""
    if {"-h", "--help"} & set(argv):
        _understand(argv)  # prints it and ends
    report = Report(as_json="--json" in argv)
    first = [(check, *_examine(check)) for check in doctor_python.checks()]
    # without its packages nothing else can be asked, not even what the configuration says
    complete = all(finding.state != "error" for _, finding, _ in first)
    understood = _understand(argv) if complete else None
    for line in first:
        report.add(*line)
    if understood is None:
        return report.conclude(list(SIDES))
    loaded, sides, wanted = understood
    _be_quiet()
    for check in _checks(loaded, sides, wanted=wanted):
        if check.waits and sys.stderr.isatty():
            sys.stderr.write(f"{check.name}: {check.waits} ...\n")
        report.add(check, *_examine(check))
    return report.conclude(sides)


def _understand(argv: Sequence[str]) -> tuple[Loaded, list[str], bool]:
    """The configuration, the sides that are asked about, and whether a run is set up already."""
    from common.config import all_sections, parse_command_line  # noqa: PLC0415 - the first checks do without
    from common.errors import UsageError  # noqa: PLC0415

    sections = all_sections()
    loaded, flags = parse_command_line(sections, argv, usage=USAGE, flags=FLAGS)
    named = [side for side in SIDES if flags[side]]
    if len(named) > 1:
        raise UsageError("--actor and --learner: name one side, or none for both")
    wanted = any(word != "--json" for word in argv)
    return loaded, named or list(SIDES), wanted


def _be_quiet() -> None:
    """What is called here logs as it does at work; standard output is for the findings."""
    from common import log  # noqa: PLC0415

    log.configure("doctor", to="file")


def _checks(loaded: Loaded, sides: Sequence[str], *, wanted: bool) -> Iterator[Check]:
    """Each side's, with what the machine must have between them, once."""
    from common import doctor_machine, doctor_metrics  # noqa: PLC0415
    from common.config import LinkConfig, RunConfig  # noqa: PLC0415
    from common.metrics_config import MetricsConfig  # noqa: PLC0415

    folder = loaded.section("run", RunConfig).folder
    yield from doctor_machine.checks(folder)
    metrics, link = loaded.section("metrics", MetricsConfig), loaded.section("link", LinkConfig)
    yield from doctor_metrics.metrics_checks(metrics, link, folder, sides)
    for side in sides:
        try:
            module = importlib.import_module(SIDES[side])
            yield from module.checks(loaded, wanted=wanted, alone=len(sides) == 1)
        except Exception as broken:  # noqa: BLE001 - one side's defect is a line of its own
            yield Check(side, _importing(side, broken))


def _importing(side: str, broken: Exception) -> Callable[[], Finding]:
    text = f"its checks cannot be made: {type(broken).__name__}: {' '.join(str(broken).split())[:300]}"
    return lambda: error(text, f"install the package anew; {SIDES[side]} must be importable")


def _examine(check: Check) -> tuple[Finding, float]:
    """What it found, and the seconds that it took. A check that breaks down is an error of its own."""
    began = time.monotonic()
    try:
        finding = check.run()
    except Exception as broken:  # noqa: BLE001 - it says nothing of the others
        said = f"{type(broken).__name__}: {' '.join(str(broken).split())[:300]}"
        finding = error(f"the check itself broke down: {said}", "report this as a defect, with the line")
    return finding, time.monotonic() - began
