"""`loop tail`: the logs of a run, of both sides and of several machines, in the order of time.

    files, run folders, pipes ─► lines that may pass, by their bytes ─► in the order of time ─► parsed, tested ─► shown

Flows in: lines. Flows out: the same lines, or a form for people. Ends with 0, and with 130 when it is interrupted.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from common.errors import RunError, UsageError

if TYPE_CHECKING:
    from common.tail_filters import Filter
    from common.tail_life import Life, Part
    from common.tail_merge import Source
    from common.tail_sources import Line, Logs, Pipe

    Batches = Iterator[list[Line]]

INTERRUPTED = 130
LAST = 10  # lines that --follow begins with, when nothing else says where to begin
DESCRIPTION = """The logs of runs, merged by time. A path is a run's folder (all logs/*.jsonl, with those that were
rotated), a folder of logs, a file, a pipe, or - for standard input, which is also read when no path is given."""
EPILOG = """NAME may be a glob, several with commas; an option may be repeated. Times are UTC.

  loop tail runs/first --follow --level warning
  loop tail runs/first --event 'step_*,version_published' --since 1h
  loop tail runs/first --trajectory g000041.3.0
  loop tail runs/first --expression 'seconds > 2 and event == "episode_finished"' --json
  journalctl --user -u loop-learner -o cat -f | loop tail --actor gpu-2
  loop tail <(ssh gpu-1 journalctl -u loop-actor@0 -o cat -f) <(ssh gpu-2 journalctl -u loop-actor@0 -o cat -f)

An expression has fields (seconds, or seconds.wait within another), text, numbers, lists, comparisons, in, and, or,
not, + - * /. A field that a line lacks is null. What is no log line (a traceback, a line that was cut) is shown behind
| or ~ where no filter is given; with --json such lines are counted, on standard error.
"""
NAMED = {
    "event": "lines of these events",
    "actor": "lines of an actor, or about it",
    "process": "lines of these processes: gateway, trainer, actor, ...",
    "task": "lines about a task",
    "policy-version": "lines about a policy version (also: --version)",
    "group": "lines about a group, its leases and its trajectories",
    "lease": "lines about a lease, or its trajectory, which has the same id",
}


def main(argv: Sequence[str]) -> int:
    """Show lines. Raises UsageError: nothing to read, or a filter that means nothing."""
    options = _parser().parse_args(argv)
    try:
        _run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        with suppress(BrokenPipeError):
            sys.stdout.flush()
            return INTERRUPTED
        _silence()
        return INTERRUPTED
    except BrokenPipeError:  # `loop tail ... | head` has seen enough
        _silence()
    return 0


def _silence() -> None:
    """What Python still holds for a reader that went away goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="loop tail",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="run folders, files, pipes, or -")
    for name, meaning in NAMED.items():
        also = ["--version"] if name == "policy-version" else []
        parser.add_argument(f"--{name}", *also, action="append", default=[], metavar="NAME", help=meaning)
    parser.add_argument("--level", default="", help="debug, info, warning, error or critical: what is less is left out")
    parser.add_argument("--expression", action="append", default=[], metavar="TEXT", help="a condition over the fields")
    parser.add_argument("--trajectory", metavar="ID", help="one trajectory's whole life, and what of it has no line")
    parser.add_argument("--since", metavar="WHEN", help="10m, 2h, 1d, or a moment as 2026-11-23T04:00")
    parser.add_argument("--last", type=int, metavar="N", help="the last N lines that pass")
    parser.add_argument(
        "--follow", action="store_true", help=f"go on with what is written from now on, after the last {LAST} lines"
    )
    parser.add_argument(
        "--window",
        type=float,
        default=0.5,
        metavar="SECONDS",
        help="how long a followed line waits for older ones of other machines, seconds (default 0.5)",
    )
    parser.add_argument("--json", action="store_true", help="the lines as they are")
    return parser


def _run(options: argparse.Namespace) -> None:
    # imported when used: `--help` does without them
    from common.tail_life import Life  # noqa: PLC0415
    from common.tail_sources import sources_of  # noqa: PLC0415

    if options.window < 0 or (options.last is not None and options.last < 0):
        raise UsageError("--window and --last are not negative")
    life = Life(options.trajectory) if options.trajectory else None
    wanted = _wanted(options, life)
    logs, pipes = sources_of(options.paths, wanted, follow=options.follow)
    out = Output(wanted, as_json=options.json, at_once=options.follow or any(not pipe.is_file for pipe in pipes))
    try:
        past, coming = _lines(logs, pipes, options)
        if life is not None:
            _show_life(life, out, past, coming)
        else:
            _show(out, past, coming, options)
    except KeyboardInterrupt:
        out.tell_foreign()
        raise
    finally:
        logs.close()
    out.tell_foreign()


def _wanted(options: argparse.Namespace, life: Life | None) -> Filter:
    from common.tail_filters import filter_of, moment_of  # noqa: PLC0415

    since = moment_of(options.since, dt.datetime.now(dt.UTC)) if options.since else b""
    names = {name.replace("-", "_"): getattr(options, name.replace("-", "_")) for name in NAMED}
    chosen = filter_of(names, level=options.level, expressions=options.expression, since=since)
    if life is None:
        return chosen
    if chosen.tests:
        raise UsageError("--trajectory shows a whole life: of the filters, only --since goes with it")
    return life.wanted(since)


def _lines(logs: Logs, pipes: list[Pipe], options: argparse.Namespace) -> tuple[Batches, Batches]:
    """What is there, exactly in order, and what comes: of pipes, and of files where they are followed."""
    from common.tail_merge import Window, as_they_come, in_order  # noqa: PLC0415

    logs.look()
    there: list[Source] = [*logs.chains(), *(pipe for pipe in pipes if pipe.is_file)]
    come = [pipe for pipe in pipes if not pipe.is_file]
    follows_files = options.follow and bool(logs.paths)
    if follows_files and not logs.files:
        sys.stderr.write(f"loop tail: waiting for logs in {', '.join(map(str, logs.paths))}\n")
    coming = as_they_come(logs if follows_files else None, come, Window(options.window))
    return in_order(there, goes_on=options.follow), coming


def _show(out: Output, past: Batches, coming: Batches, options: argparse.Namespace) -> None:
    last = options.last
    if options.follow and last is None and not options.since:
        last = LAST
    batches: Batches
    if last is None:
        batches = chain(past, coming)
    elif options.follow:
        batches = chain([_last(past, last, out)], coming)
    else:
        batches = iter([_last(chain(past, coming), last, out)])
    for lines in batches:
        if lines:
            out.show(lines)


def _last(batches: Batches, count: int, out: Output) -> list[Line]:
    kept: deque[Line] = deque(maxlen=count)
    for lines in batches:
        kept.extend(out.passing(lines))
    return list(kept)


def _show_life(life: Life, out: Output, past: Batches, coming: Batches) -> None:
    """What is there as one story, by time; what comes later line by line. Raises RunError: no line names it."""
    from common.tail_life import ending, heading, told  # noqa: PLC0415

    def rows(parts: Sequence[Part]) -> bytes:
        if out.as_json:
            return b"".join(part.line[1] + b"\n" for part in parts)
        return told(life, out.form, parts).encode(errors="replace")

    for lines in past:
        deque(life.add(lines), maxlen=0)
    begun = bool(life.parts)
    if begun:
        out.write((b"" if out.as_json else heading(life).encode()) + rows(life.parts))
        out.tell(ending(life))
    for lines in coming:
        if lines and (parts := list(life.add(lines))):
            out.write(rows(parts))
            out.flush()
    if not life.parts:
        raise RunError(f"no line names {life.trajectory}: `loop ledger RUN --trajectory ID` knows what was leased")
    if not begun:
        out.tell(heading(life) + ending(life))


class Output:
    """Where lines go: standard output, as they are or in a form for people.

    Args:
        wanted: the filter whose tests lines must pass.
        as_json: the lines as they are.
        at_once: what is shown does not wait for more.
    """

    def __init__(self, wanted: Filter, *, as_json: bool, at_once: bool) -> None:
        from common.tail_lines import Form  # noqa: PLC0415

        self._wanted, self.as_json, self._at_once = wanted, as_json, at_once
        self.form = Form(colours=_has_colours())
        self._foreign = 0

    def show(self, lines: list[Line]) -> None:
        """Those that pass."""
        if self.as_json:
            self.write(b"".join(line + b"\n" for _, line in self.passing(lines)))
        else:
            self.write("".join(self._texts(lines)).encode(errors="replace"))
        if self._at_once:
            self.flush()

    def passing(self, lines: list[Line]) -> list[Line]:
        """Those that pass the tests; of those that are no log lines, none with --json or where there is a test."""
        from common.tail_lines import is_object, parse  # noqa: PLC0415

        if self._wanted.tests:
            passes = self._wanted.passes
            return [one for one in lines if (fields := parse(one[1])) is not None and passes(fields)]
        if not self.as_json:
            return lines
        kept = [one for one in lines if is_object(one[1])]
        self._foreign += len(lines) - len(kept)
        return kept

    def tell_foreign(self) -> None:
        """How many lines were no log lines and are not among those shown."""
        if self._foreign:
            sys.stderr.write(f"loop tail: left out {self._foreign} lines that are no JSON objects\n")

    def tell(self, text: str) -> None:
        """Words of our own, which are no lines of a log."""
        if self.as_json:
            sys.stderr.write(text)
        else:
            self.write(text.encode(errors="replace"))
        self.flush()

    def write(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)

    def flush(self) -> None:
        sys.stdout.flush()

    def _texts(self, lines: list[Line]) -> Iterator[str]:
        from common.tail_lines import parse  # noqa: PLC0415

        text, foreign, tests, passes = self.form.text, self.form.foreign, self._wanted.tests, self._wanted.passes
        for _, line in lines:
            fields = parse(line)
            if fields is None:
                if not tests:
                    yield foreign(line) + "\n"
            elif not tests or passes(fields):
                yield text(fields) + "\n"


def _has_colours() -> bool:
    """A terminal that knows them, and nobody who does not want them (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
