"""The `loop` command: names to modules, imported when used, so that `--help` costs nothing."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from common.errors import RunError, UsageError

COMMANDS = {
    "demo": ("common.demo", "train a small policy from nothing on this machine and show that it learned"),
    "learner": ("learner.cli", "the learner of a run; `loop learner warm-start` makes a policy to start from"),
    "actor": ("actor.cli", "an actor: rolls out episodes for a learner"),
    "status": ("common.status", "how a run does: what it waits for, versions, actors, groups, errors, the books"),
    "eval": ("actor.evaluate", "TGC and SGC of a policy on a data set, with intervals, without a learner"),
    "world": ("actor.world.cli", "install | build | show | demonstrate: AppWorld and the tasks to train on"),
    "replay": ("actor.world.replay_cli", "a run's trajectories executed again: does the world still say what it said"),
    "tail": ("common.tail", "the logs of a run, merged, filtered, followed; one trajectory's life across both sides"),
    "behaviour": ("common.behaviour_cli", "what a policy does in its episodes, before and after training"),
    "keys": ("common.keys", "new | list | show: CURVE keys of learner and actors"),
    "doctor": ("common.doctor", "whether this machine can do its part: software, GPU, worlds, disk, keys, the learner"),
    "report": (
        "learner.report.cli",
        "a run on one HTML page: curves, staleness, books, trajectories to read",
    ),
    "service": ("common.service", "install | uninstall: systemd units for this machine's part of a run"),
    "ledger": ("learner.gateway.books", "the books of a run: issued = trained + dropped + pending"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 it failed, 2 wrong usage or configuration."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = "\n".join(f"  {name:<{width}}  {meaning}" for name, (_, meaning) in COMMANDS.items())
        print(f"usage: loop COMMAND [--help] [--config FILE] [--section.key value ...]\n\n{lines}")
        return 0 if words else 2
    name, *rest = words
    if name == "--version":
        print(importlib.import_module("importlib.metadata").version("loop-rl"))
        return 0
    if name not in COMMANDS:
        print(f"loop: unknown command '{name}'; known are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _run(name, rest)


def _run(name: str, rest: list[str]) -> int:
    try:
        code: int = importlib.import_module(COMMANDS[name][0]).main(rest)
    except UsageError as error:
        print(f"loop {name}: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"loop {name}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # the reader of our output went away (`loop ... | head`): nothing more to say, and nothing to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
