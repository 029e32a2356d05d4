"""`loop behaviour`: what a policy does in its episodes, sets of trajectories side by side; a table, or one JSON object.

Flows in: journals, and the tokenizer of their runs. Flows out: measures of each set (behaviour.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UsageError

if TYPE_CHECKING:
    from common.journal import FramePlace, Journal
    from common.prompt import Prompt

TRAIN, FIRST, LAST, ALL = "train", "first", "last", "all"
SHARE_OF_FIRST = 10  # `first` and `last` are this part of the training trajectories
EPILOG = f"""labels: of evaluations (before.t0, after.t0, ...); {TRAIN}: all training trajectories; {FIRST}, {LAST}: the
first and the last tenth of them, as they arrived; {ALL}. Without any: of one run, its evaluations before and after at
the lowest temperature, or {FIRST} and {LAST} where it has none; of several, {ALL} of each."""


def main(argv: Sequence[str]) -> int:
    """Print the measures. Raises UsageError: no journal, no such label, no tokenizer."""
    parser = argparse.ArgumentParser(
        prog="loop behaviour", description="what a policy does in its episodes, before and after", epilog=EPILOG
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, journals or files of frames")
    parser.add_argument("--label", action="append", default=[], metavar="LABEL", help="a set to show; may be repeated")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="where the tokenizer is (default: each run's own)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(argv)
    # imported when used: `--help` does without them
    from common.behaviour import count_all  # noqa: PLC0415
    from common.journal import Journal  # noqa: PLC0415

    sets: list[dict[str, Any]] = []
    damage: list[str] = []
    for run in options.runs:
        journal, prompt = Journal(run), prompt_of(run, options.model)
        by_label = _by_label(journal)
        several = len(options.runs) > 1
        for label in options.label or ([ALL] if several else before_and_after(by_label)):
            read = (journal.read(place) for place in chosen(by_label, label, run))
            counts = count_all((trajectory for trajectory in read if trajectory is not None), prompt)
            name = f"{run.name} {label}" if several else label
            sets.append({"name": name, "run": str(run), "label": label, **counts.facts()})
        damage += journal.damage
    if options.json:
        sys.stdout.write(json.dumps({"sets": sets, "damage": damage}) + "\n")
        return 0
    from common.table import print_behaviour  # noqa: PLC0415

    print_behaviour(sets)
    sys.stdout.write("".join(f"damage: {line}\n" for line in damage))
    return 0


def prompt_of(run: Path, model: Path | None) -> Prompt:
    """The prompt that a run's tokens were made with."""
    from common.config import load  # noqa: PLC0415
    from common.prompt import Prompt, PromptConfig  # noqa: PLC0415
    from common.run_folder import CONFIG, tokenizer_folder  # noqa: PLC0415

    file = run / CONFIG
    loaded = load({"prompt": PromptConfig}, file if file.is_file() else None, [])
    return Prompt.load(model or tokenizer_folder(run), loaded.section("prompt", PromptConfig))


def _by_label(journal: Journal) -> dict[str, list[FramePlace]]:
    """Every trajectory's place by its label, `train` for those that have none."""
    from common.wire import unpack  # noqa: PLC0415

    found: dict[str, list[FramePlace]] = {}
    for place in journal.places():
        try:
            label = unpack(place.read())["lease"]["label"]
        except (ValueError, LookupError, TypeError) as error:
            journal.damage.append(f"{place.file}: the frame at byte {place.offset} cannot be read: {error}")
            continue
        found.setdefault(label or TRAIN, []).append(place)
    return found


def before_and_after(by_label: dict[str, list[FramePlace]]) -> list[str]:
    """The labels of the evaluations before and after at the lowest temperature; `first` and `last` without both."""
    from common.evaluation import parts_of  # noqa: PLC0415

    main = [parts for label in by_label if (parts := parts_of(label)) is not None and not parts[2]]
    sides = Counter(temperature for _, temperature, _ in main)
    both = sorted((temperature for temperature, count in sides.items() if count == 2), key=float)
    return [f"before.t{both[0]}", f"after.t{both[0]}"] if both else [FIRST, LAST]


def chosen(by_label: dict[str, list[FramePlace]], label: str, run: Path) -> list[FramePlace]:
    """The places of a label's trajectories. Raises UsageError: there are none."""
    training = by_label.get(TRAIN, [])
    tenth = max(1, len(training) // SHARE_OF_FIRST)
    sets = {
        **by_label,
        FIRST: training[:tenth],
        LAST: training[-tenth:],
        ALL: [place for places in by_label.values() for place in places],
    }
    if not sets.get(label):
        known = ", ".join(f"{name} ({len(places)})" for name, places in sets.items() if places) or "nothing"
        raise UsageError(f"{run}: no trajectory is labelled {label}; there are {known}")
    return sets[label]
