"""`loop report`: a run on one HTML page that works offline; how much is in it, for a person or as JSON.

Flows in: a run folder, while the run goes on or after it. Flows out: one file. Wired here: gather ─► sections, and
journal ─► transcripts ─► blocks ─► page.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import RunError, UsageError

if TYPE_CHECKING:
    from common.journal import FramePlace
    from common.prompt import Prompt
    from learner.report.gather import Gathered
    from learner.report.pack import Blocks
    from learner.report.recompute import Version
    from learner.report.sections import Section, Tile

SMALL_WEIGHTS = 64 << 20  # bytes: a model below this is computed with unless told otherwise
RECOMPUTED = 120  # trajectories, then
LINE_SECONDS = 5.0  # between two progress lines


def main(argv: Sequence[str]) -> int:
    """Write the report. Raises UsageError: no run there; RunError: it cannot be read, or the report not be written."""
    parser = argparse.ArgumentParser(prog="loop report", description="a run on one HTML page that works offline")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, of a run that goes on or is over")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to (default: RUN/report.html)")
    parser.add_argument(
        "--trajectories", type=_count, default=10_000, metavar="N",
        help="most trajectories to read in it (default 10000); of more, whole groups are drawn at random",
    )  # fmt: skip
    parser.add_argument(
        "--megabytes", type=_count, default=100, metavar="M",
        help="most of their text, compressed, in MB (default 100); beyond it fewer are kept",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of that draw (default 1)")
    parser.add_argument(
        "--recompute", type=_count, metavar="N",
        help="compute the log-probs of N training trajectories under the newest version that is there, on the CPU, "
        "to show their ratios token by token "
        f"(default: {RECOMPUTED} where its weights are below {SMALL_WEIGHTS >> 20} MB, else 0)",
    )  # fmt: skip
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="where the tokenizer is (default: the run's own)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(argv)
    facts = write_report(options)
    if options.json:
        sys.stdout.write(json.dumps(facts) + "\n")
        return 0
    lines = [f"damage: {line}" for line in facts["damage"]]
    size = f"{facts['bytes'] / 1e6:.1f} MB"
    kept = f"{facts['trajectories']:,} of {facts['of']:,} trajectories to read"
    lines.append(f"{facts['report']}: {size}, {kept}, made in {facts['seconds']:.1f} s")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number of 0 or more is wanted (got {text!r})")
    return int(text)


def write_report(options: argparse.Namespace) -> dict[str, Any]:
    """Make the page and write it, whole or not at all; what is in it."""
    # imported when used: `--help` does without them
    from learner.report.gather import gather  # noqa: PLC0415
    from learner.report.pack import index  # noqa: PLC0415
    from learner.report.page import Page, render  # noqa: PLC0415

    began = time.monotonic()
    found = gather(options.run, _Progress("trajectories looked at"))
    notes: list[str] = []
    prompt = _prompt(options, found, notes)
    version = _version(options, found, notes)
    blocks, recomputed = _blocks(options, found, prompt, version)
    notes += _sample_notes(options, found, blocks)
    if version is not None:
        notes.append(
            f"Log-ratios of {recomputed} of them were computed for this page, against policy version {version.number}."
        )
    published = {int(step["step"]): int(step["policy_version"]) for step in found.figures.steps}
    page = Page(
        title=found.run.resolve().name,
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        lead=_lead(found),
        tiles=_tiles(found),
        sections=_sections(found, prompt),
        notes=[*notes, *(_named(line, found.run) for line in found.damage)],
        config=found.shown_config,
        index=index(blocks.kept, found.difficulty, published),
        blocks=blocks.texts,
        facts={"ratio_version": version.number if version is not None and recomputed else -1},
    )
    out = options.out or options.run / "report.html"
    size = _write(out, render(page))
    return {
        "report": str(out),
        "bytes": size,
        "trajectories": len(blocks.kept),
        "of": len(found.rollouts),
        "blocks": len(blocks.texts),
        "recomputed": recomputed,
        "seed": options.seed,
        "damage": found.damage,
        "seconds": round(time.monotonic() - began, 1),
    }


class _Progress:
    """A line on standard error every few seconds."""

    def __init__(self, words: str) -> None:
        self._words, self._said = words, time.monotonic()

    def __call__(self, count: int) -> None:
        if time.monotonic() - self._said > LINE_SECONDS:
            self._said = time.monotonic()
            sys.stderr.write(f"loop report: {count:,} {self._words}\n")


def _named(line: str, run: Path) -> str:
    """A line about a file, with its place within the run alone."""
    return line.replace(f"{run}{os.sep}", "")


def _prompt(options: argparse.Namespace, found: Gathered, notes: list[str]) -> Prompt | None:
    from common.behaviour_cli import prompt_of  # noqa: PLC0415 - as above

    try:
        return prompt_of(options.run, options.model)
    except UsageError as error:
        if options.model is not None:
            raise
        if found.rollouts:
            notes.append(f"Tokens are shown as their numbers: {_named(str(error), found.run)}.")
        return None


def _version(options: argparse.Namespace, found: Gathered, notes: list[str]) -> Version | None:
    """The version to compute ratios with; None where that is not wanted, or there is none."""
    from learner.report.gather import newest_full  # noqa: PLC0415 - as above

    if options.recompute == 0 or not found.training:
        return None
    newest = newest_full(options.run)
    if newest is None:
        if options.recompute:
            notes.append("No log-ratios: no version with all its weights is left in this run's checkpoints.")
        return None
    number, folder, weights = newest
    if options.recompute is None and weights > SMALL_WEIGHTS:
        notes.append("No log-ratios by token: `loop report --recompute N` computes them, which takes its time here.")
        return None
    from learner.report.recompute import load_version  # noqa: PLC0415 - imports torch

    return load_version(number, folder)


def _blocks(
    options: argparse.Namespace, found: Gathered, prompt: Prompt | None, version: Version | None
) -> tuple[Blocks, int]:
    """The trajectories to read, whole groups in a drawn order until it is enough; how many of them have ratios."""
    from common.journal import Journal  # noqa: PLC0415 - as above
    from learner.report.pack import Blocks, drawn_groups  # noqa: PLC0415
    from learner.report.transcripts import Reader, shown  # noqa: PLC0415

    blocks, reader = Blocks(options.megabytes * 1_000_000), Reader(prompt)
    if not found.rollouts:
        return blocks, 0
    journal = Journal(options.run / "journal")
    wanted = RECOMPUTED if options.recompute is None else options.recompute
    progress = _Progress(f"of {min(len(found.rollouts), options.trajectories):,} trajectories written")
    done = 0
    for members in drawn_groups(found.rollouts, options.seed):
        if done + len(members) > options.trajectories:
            continue  # a smaller group may fit
        made = []
        for rollout in members:
            trajectory = journal.read(rollout.place)
            if trajectory is None:
                continue
            ratios = None
            if version is not None and wanted > 0 and not rollout.label:
                ratios = version.log_ratios(trajectory)
                wanted -= ratios is not None
            made.append((rollout, shown(trajectory, reader, ratios)))
        blocks.add(made)
        done += len(members)
        if blocks.full:
            break
        progress(done)
    blocks.finish()
    found.damage.extend(journal.damage)
    return blocks, sum(ratio for *_, ratio in blocks.kept)


def _sample_notes(options: argparse.Namespace, found: Gathered, blocks: Blocks) -> list[str]:
    kept, of = len(blocks.kept), len(found.rollouts)
    if kept == of:
        return [f"All {of:,} trajectories are here."] if of else []
    why = f"{options.megabytes} MB are" if blocks.full else f"{options.trajectories:,} are"
    sample = f"{kept:,} of {of:,} trajectories are here: whole groups, drawn at random with seed {options.seed}"
    return [f"{sample}; {why} the most that was allowed. All figures above are of the whole run."]


def _lead(found: Gathered) -> str:
    told = [str(found.config["run"]["seed"])] if isinstance(found.config.get("run"), dict) else []
    seed = f", seed {told[0]}" if told else ""
    actors = len({rollout.actor for rollout in found.rollouts})
    objective = found.shown_config.get("learner.objective", {})
    method = f"{objective['advantage']} advantages, {objective['ratio']} ratio, " if objective else ""
    method = method.replace("_", "-")
    return f"{method}{actors} actor{'' if actors == 1 else 's'}{seed}".capitalize()


def _tiles(found: Gathered) -> list[Tile]:
    from learner.report.sections import tiles  # noqa: PLC0415 - as above

    return tiles(found)


def _sections(found: Gathered, prompt: Prompt | None) -> list[Section]:
    from learner.report import diagnosis, sections  # noqa: PLC0415 - as above

    sets, missing = _behaviour(found, prompt)
    return [
        sections.learning(found),
        sections.tasks(found),
        diagnosis.staleness(found),
        diagnosis.throughput(found),
        sections.accounts(found),
        sections.behaviour(sets, missing),
    ]


def _behaviour(found: Gathered, prompt: Prompt | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Measures of the sets that `loop behaviour` compares."""
    from common.behaviour import count_all  # noqa: PLC0415 - as above
    from common.behaviour_cli import TRAIN, before_and_after, chosen  # noqa: PLC0415
    from common.journal import Journal  # noqa: PLC0415

    if not found.rollouts:
        return [], []
    if prompt is None:
        return [], ["Behaviour cannot be counted without the run's tokenizer."]
    by_label: dict[str, list[FramePlace]] = {}
    for rollout in found.rollouts:
        by_label.setdefault(rollout.label or TRAIN, []).append(rollout.place)
    journal, sets = Journal(found.run / "journal"), []
    try:
        for label in before_and_after(by_label):
            read = (journal.read(place) for place in chosen(by_label, label, found.run))
            counts = count_all((trajectory for trajectory in read if trajectory is not None), prompt)
            sets.append({"name": label, **counts.facts()})
    except UsageError as error:
        return [], [_named(str(error), found.run)]
    return sets, []


def _write(out: Path, text: str) -> int:
    """Its bytes. Raises RunError: the disk does not take it, or nothing may be written there."""
    draft = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(out)
        return out.stat().st_size
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise RunError(f"{out}: cannot be written: {error.strerror or error}; name another place with --out") from None
