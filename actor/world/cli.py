"""`loop world`: AppWorld's virtualenv, a world made from nothing, tasks of a data root for a person, demonstrations.

loop world install       makes AppWorld's virtualenv below the cache folder
loop world build         makes and verifies a data root below the cache folder, and says where it is
loop world verify        tries every task in many ways: its solution must pass, all others must fail
loop world show [TASK]   prints a task, or the table of all scenarios
loop world tasks         lists the task ids of a data set, of some difficulties
loop world check         whether a data root is whole, and the engine starts on it
loop world demonstrate   plays noisy demonstrations of train tasks, for the warm start
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from common.errors import UsageError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see '{self.prog} --help'")


def main(argv: Sequence[str]) -> int:
    """Runs one of them. Heavy imports wait until the words are understood, so that --help is instant."""
    parser = _Parser(prog="loop world", description="AppWorld and the tasks to train on")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    as_json = {"action": "store_true", "help": "one JSON object instead of text for a person"}
    install = commands.add_parser("install", help="make AppWorld's virtualenv below the cache folder")
    build = commands.add_parser("build", help="make and verify a data root below the cache folder")
    for name, (default, meaning) in SIZES.items():
        build.add_argument(
            f"--{name}", type=_count, default=default, metavar="N", help=f"{meaning} (default {default})"
        )
    build.add_argument(
        "--seed", type=_count, default=1, metavar="N", help="every random choice comes from it (default 1)"
    )
    verify = commands.add_parser("verify", help="try every task: its solution, nothing, wrong ways, damage beside it")
    verify.add_argument("--dataset", metavar="NAME", help="one data set alone, e.g. test_challenge (default: all)")
    show = commands.add_parser("show", help="print a task, or without one the table of all scenarios")
    show.add_argument("task", nargs="?", metavar="TASK", help="a task id, e.g. likeSong_3")
    tasks = commands.add_parser("tasks", help="list the task ids of a data set, one a line")
    tasks.add_argument("--dataset", default="train", metavar="NAME", help="its name (default train)")
    tasks.add_argument("--difficulty", type=_levels, metavar="N,N", help="tasks of these difficulties alone, e.g. 1,2")
    tasks.add_argument("--out", type=Path, metavar="FILE", help="the list to write, for learner.rollout.train_tasks")
    check = commands.add_parser("check", help="look at every file of a data root, and start the engine on it")
    demonstrate = commands.add_parser("demonstrate", help="play noisy demonstrations of train tasks")
    demonstrate.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines to write")
    demonstrate.add_argument("--count", type=_count, default=2000, metavar="N", help="how many (default 2000)")
    demonstrate.add_argument("--seed", type=_count, default=1, metavar="N", help="seed of the draws (default 1)")
    demonstrate.add_argument("--graded", action="store_true", help="grade each with its task's tests as well")
    for command in (verify, show, tasks, check, demonstrate):
        command.add_argument(
            "--root",
            type=Path,
            metavar="FOLDER",
            help="a data root, or AppWorld's own data (default: APPWORLD_ROOT, else the built world)",
        )
    for command in (install, build, verify, show, tasks, check, demonstrate):
        command.add_argument("--json", **as_json)  # type: ignore[arg-type]
    words = parser.parse_args(argv)
    return RUN[words.command](words)


SIZES = {
    "train": (12, "train tasks per scenario"),
    "dev": (2, "dev tasks per scenario"),
    "test": (4, "test_normal tasks per scenario of train"),
    "unseen": (6, "test_normal tasks per scenario that train lacks"),
    "challenge": (6, "test_challenge tasks per scenario of its own"),
}


def _count(word: str) -> int:
    if not word.isdigit():
        raise argparse.ArgumentTypeError(f"'{word}' is not a number of 0 or more")
    return int(word)


def _levels(word: str) -> tuple[int, ...]:
    levels = word.split(",")
    if not all(level.strip() in ("1", "2", "3") for level in levels):
        raise argparse.ArgumentTypeError(f"'{word}' is not difficulties between 1 and 3, such as 1,2")
    return tuple(int(level) for level in levels)


def _log() -> None:
    from common import log  # noqa: PLC0415 - slow to import

    log.configure("world")


def _install(words: argparse.Namespace) -> int:
    from actor.world.install import APPWORLD_VERSION, appworld_python  # noqa: PLC0415

    _log()
    python = appworld_python()
    _say(words, {"python": str(python), "appworld": APPWORLD_VERSION}, f"AppWorld {APPWORLD_VERSION}: {python}")
    return 0


def _build(words: argparse.Namespace) -> int:
    from pydantic import ValidationError  # noqa: PLC0415

    from actor.world.build import BuildArguments, build  # noqa: PLC0415
    from actor.world.show import task_ids  # noqa: PLC0415

    _log()
    try:
        arguments = BuildArguments(seed=words.seed, **{name: getattr(words, name) for name in SIZES})
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(f"--{problem['loc'][0]}: {problem['msg'].lower()}") from None
    root = build(arguments)
    counts = {name: len(ids) for name, ids in task_ids(root).items()}
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    _say(words, {"root": str(root), "tasks": counts}, f"{root}: {told} tasks, all verified")
    return 0


def _verify(words: argparse.Namespace) -> int:
    from actor.world.root import choose_root  # noqa: PLC0415
    from actor.world.verify_report import print_report, verify_root  # noqa: PLC0415

    _log()
    report = verify_root(choose_root(words.root), words.dataset)
    _say(words, report, None) if words.json else print_report(report)
    return 1 if report["wrong"] else 0


def _show(words: argparse.Namespace) -> int:
    from actor.world import show  # noqa: PLC0415
    from actor.world.root import choose_root  # noqa: PLC0415

    _log()
    root = choose_root(words.root)
    if words.task is None:
        facts = show.scenario_facts(root)
        _say(words, {"root": str(root), "scenarios": facts}, None) if words.json else show.print_scenarios(facts, root)
        return 0
    task = show.task_facts(root, words.task)
    _say(words, task, None) if words.json else show.print_task(task)
    return 0


def _tasks(words: argparse.Namespace) -> int:
    from actor.world.root import choose_root  # noqa: PLC0415
    from actor.world.tasks import list_tasks, write_list  # noqa: PLC0415

    _log()
    facts = list_tasks(choose_root(words.root), words.dataset, words.difficulty)
    if words.out is not None:
        write_list(words.out, facts["tasks"])
        facts["out"] = str(words.out)
    said = f"{facts['count']} tasks of {facts['scenarios']} scenarios in {words.out}" if words.out else None
    _say(words, facts, said or "\n".join(facts["tasks"]))
    return 0


def _check(words: argparse.Namespace) -> int:
    from actor.world.checkup import look_at, say  # noqa: PLC0415
    from actor.world.root import choose_root  # noqa: PLC0415

    _log()
    facts = look_at(choose_root(words.root))
    _say(words, facts, say(facts))
    return 1 if facts["problems"] else 0


def _demonstrate(words: argparse.Namespace) -> int:
    from actor.world.demonstrate import demonstrate  # noqa: PLC0415
    from actor.world.root import choose_root  # noqa: PLC0415

    _log()
    facts = demonstrate(choose_root(words.root), words.out, words.count, words.seed, graded=words.graded)
    _say(words, facts, f"{facts['count']} demonstrations in {facts['out']}, {facts['right']} of them right in all")
    return 0


def _say(words: argparse.Namespace, facts: dict[str, object], text: str | None) -> None:
    print(json.dumps(facts) if words.json else text)  # noqa: T201 - the command's result


RUN = {
    "install": _install,
    "build": _build,
    "verify": _verify,
    "show": _show,
    "tasks": _tasks,
    "check": _check,
    "demonstrate": _demonstrate,
}
