"""`loop replay`: a trajectory of a run, or all of them, replayed and compared; for a person, or as one JSON object."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common.log
from actor.config import ActorConfig, WorldConfig
from common.config import Loaded, Section, parse_command_line
from common.errors import UsageError
from common.prompt_config import PromptConfig

if TYPE_CHECKING:
    from actor.world.audit import Tally

USAGE = """usage: loop replay RUN TRAJECTORY [--json] [--model FOLDER] [--config FILE] [--world.key value ...]
       loop replay RUN --all [--sample N] [--seed S] [--json] [--model FOLDER] [--config FILE] [--world.key value ...]

Executes a trajectory's actions again in a fresh world and compares every observation, the end and the grade with what
was recorded. Exit code 1 when something differs. RUN is a run folder, whose config.yaml says which world it was.

  --sample N
        with --all: of these N, drawn at random
  --seed S
        seed of that draw (default 1)
  --model FOLDER
        where the tokenizer is (default: a version of the run)"""
SHOWN: dict[str, type[Section]] = {"world": WorldConfig, "prompt": PromptConfig}
SECTIONS: dict[str, type[Section]] = {**SHOWN, "actor": ActorConfig}  # of the actor's, the engine's context alone
VALUES = ("--sample", "--seed", "--model")
FLAGS = {"all": "every trajectory of the run", "json": "one JSON object on standard output"}
LINE_SECONDS = 5.0  # between two progress lines where there is no terminal
MOST_SHOWN = 5  # trajectories that differ, told in full to a person
MEANINGS = {
    "opening": "the task or the prompt",
    "observation": "what a cell led to",
    "cut": "where an observation was cut: the engine held another number of tokens",
    "end": "how it ended",
    "grade": "the grade",
}


@dataclass(frozen=True)
class Words:
    """The command's words, told apart."""

    run: Path
    trajectory: str | None
    values: dict[str, str]
    rest: list[str]  # flags and configuration

    def number(self, name: str) -> int | None:
        text = self.values.get(name)
        if text is not None and not text.isdecimal():
            raise UsageError(f"{name}: a number of 0 or more is wanted (got {text!r}); see --help")
        return None if text is None else int(text)


def main(argv: Sequence[str]) -> int:
    """Replay; 1 when something differs or could not be replayed. Raises UsageError and RunError."""
    words = _split(argv)
    from common.run_folder import config_words  # noqa: PLC0415 - `--help` does without it

    loaded, flags = parse_command_line(SECTIONS, config_words(words.run, words.rest), usage=USAGE, flags=FLAGS)
    if (words.trajectory is None) != flags["all"]:
        raise UsageError("name one trajectory of the run, or --all; see --help")
    if "--sample" in words.values and not flags["all"]:
        raise UsageError("--sample is for --all; see --help")
    common.log.configure("replay", level="warning")
    began = time.monotonic()
    try:
        tally, damage = asyncio.run(_run(words, loaded))
    except KeyboardInterrupt:
        return 130
    facts = {"run": str(words.run), **tally.facts(), "damage": damage, "seconds": round(time.monotonic() - began, 1)}
    sys.stdout.write(json.dumps(facts) + "\n" if flags["json"] else _as_text(facts))
    return 0 if tally.clean else 1


def _split(argv: Sequence[str]) -> Words:
    """Tells run, trajectory and this command's own options from the configuration's."""
    positional: list[str] = []
    values: dict[str, str] = {}
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word in ("-h", "--help"):
            parse_command_line(SHOWN, ["--help"], usage=USAGE, flags=FLAGS)
        if not word.startswith("-"):
            positional.append(word)
        elif word.removeprefix("--") in FLAGS or (equals and name not in VALUES):
            rest.append(word)
        else:
            value = value if equals else (words.pop(0) if words else "")
            if not value:
                raise UsageError(f"{name}: a value is missing; see --help")
            if name in VALUES:
                values[name] = value
            else:
                rest += [name, value]
    if not 1 <= len(positional) <= 2:
        raise UsageError("name a run, and one of its trajectories or --all; see --help")
    return Words(Path(positional[0]), positional[1] if len(positional) == 2 else None, values, rest)


async def _run(words: Words, loaded: Loaded) -> tuple[Tally, list[str]]:
    # as above: heavier still
    from actor.world.audit import AT_ONCE, Tally, audit, drawn, facts_of  # noqa: PLC0415
    from actor.world_protocol import provider_of  # noqa: PLC0415
    from common.journal import Journal  # noqa: PLC0415
    from common.prompt import Prompt  # noqa: PLC0415
    from common.run_folder import tokenizer_folder  # noqa: PLC0415

    config = loaded.section("world", WorldConfig)
    journal = Journal(words.run)
    given = words.values.get("--model")
    model = Path(given) if given is not None else tokenizer_folder(words.run)
    prompt = Prompt.load(model, loaded.section("prompt", PromptConfig))
    longest = _context_tokens(loaded.section("actor", ActorConfig), model)
    one = None if words.trajectory is None else journal.find(words.trajectory)
    seed = words.number("--seed")
    places = drawn(journal, words.number("--sample"), 1 if seed is None else seed) if one is None else []
    damage = journal.damage
    worlds = await asyncio.to_thread(provider_of(config.provider), config)
    try:
        await worlds.start()
        if one is not None:
            tally = Tally(1)
            tally.add(await facts_of(one, worlds, prompt, longest))
            return tally, damage
        progress, at_once = _Progress(), min(AT_ONCE, config.max_worlds)
        tally = await audit(journal, places, worlds, prompt, longest=longest, at_once=at_once, on_done=progress.show)
        progress.end(tally)
        return tally, journal.damage
    finally:
        await worlds.close()


def _context_tokens(actor: ActorConfig, model: Path) -> int:
    """Tokens that the engine of the actors could hold: what it was told, else what the model has positions for."""
    if actor.engine.context_tokens is not None:
        return actor.engine.context_tokens
    try:
        return int(json.loads((model / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])
    except (OSError, ValueError, LookupError, TypeError):
        return sys.maxsize  # its leases alone bound it


class _Progress:
    """One line on standard error that says how far it is."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def show(self, tally: Tally) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{self._line(tally)}")
        elif time.monotonic() - self._said > LINE_SECONDS:
            self._said = time.monotonic()
            sys.stderr.write(f"{self._line(tally)}\n")

    def end(self, tally: Tally) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{self._line(tally)}\n")

    @staticmethod
    def _line(tally: Tally) -> str:
        return f"replayed {tally.done} of {tally.total}, {tally.outcomes['different']} differ"


def _as_text(facts: dict[str, Any]) -> str:
    from actor.world.replay import EXCUSES  # noqa: PLC0415 - as above

    lines: list[str] = []
    for one in [one for one in facts["trajectories"] if one["outcome"] != "failed"][:MOST_SHOWN]:
        lines.append(f"{one['trajectory_id']}, task {one['task_id']}: {one['outcome'].replace('_', ' ')}")
        for difference in one["differences"]:
            excuse = f" ({one['excuses'][difference['excuse']]})" if difference["excuse"] else ""
            where = f" of turn {difference['turn']}" if difference["turn"] >= 0 else ""
            lines += [f"  {MEANINGS[difference['kind']]}{where} differs{excuse}", ""]
            lines += [f"    {line}" for line in difference["diff"].splitlines()] + [""]
    lines += [f"damage: {damage}" for damage in facts["damage"]]
    lines += [f"not replayed, {count}: {reason}" for reason, count in facts["reasons"].items()]
    lines += [f"cannot be replayed exactly, {count}: {EXCUSES[name]}" for name, count in facts["excuses"].items()]
    counts = f"{facts['replayed']} replayed: {facts['same']} the same"
    counts += "".join(f", {facts[name]} {name.replace('_', ' ')}" for name in ("different", "not_exact") if facts[name])
    kinds = "; first difference: " if facts["kinds"] else ""
    kinds += ", ".join(f"{MEANINGS[name]} {count}" for name, count in facts["kinds"].items())
    return "\n".join([*lines, f"{counts}{kinds}"]) + "\n"
