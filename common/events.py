"""Every event of the logs, with its level and fields; `python -m common.events` writes the page that people read.

A log call that is not in here fails tests/common/test_events.py, which says the line to add. `loop tail` and whoever
reads the logs may rely on what stands here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from common.event import LEVELS, LINE, Event
from common.events_actor import ENGINE, WORKER, WORLD
from common.events_common import COMMON
from common.events_learner import GATEWAY, PARENT, TRAINER

DOCUMENT = Path(__file__).parent / "docs" / "events.md"
PARTS: dict[str, dict[str, Event]] = {
    "Both sides": COMMON,
    "Actor: episodes and spool": WORKER,
    "Actor: engine and versions": ENGINE,
    "Actor: worlds and commands": WORLD,
    "Learner: gateway": GATEWAY,
    "Learner: trainer": TRAINER,
    "Learner: parent and warm start": PARENT,
}
EVENTS: dict[str, Event] = {name: event for part in PARTS.values() for name, event in part.items()}
INTRODUCTION = """\
# Events of the logs

Written by `python -m common.events` from the table in `common/events*.py`; a test holds the two equal, and each to what
the code logs.

A line is one JSON object. Each process of a run appends to a file of its own in the run's folder,
`logs/PROCESS.jsonl` (an actor to `logs/NAME.jsonl`), set aside as `FILE.1`, `FILE.2`, ... before it grows beyond
`run.log_bytes`; as many as `run.log_files` stay. The services `loop learner` and `loop actor` log to standard output
besides, where systemd's journal has it; the learner's gateway and trainer to that same standard output. Commands with
a result (`loop eval`, `loop world`, ...) log to standard error, and standard output is their result alone. A terminal
gets a form that is pleasant to read. Of the processes that `loop demo` starts the files alone have the lines. A full
disk, or a reader that went away, costs lines and nothing else.

No secret stands in a log, and above debug nothing that a policy wrote.
"""


def document() -> str:
    """The page, Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield INTRODUCTION
    yield from _table("Levels", ("level", "what it means"), {str(level): means for level, means in LEVELS.items()})
    yield from _table("Every line", ("field", "what it is"), {**LINE, "exception": "of a defect: its traceback"})
    for title, events in PARTS.items():
        yield f"## {title}\n"
        yield "| event | level | what has happened | fields |"
        yield "|---|---|---|---|"
        for name, event in events.items():
            fields = [f"`{field}` {what}" for field, what in event.fields.items()] + [event.more] * bool(event.more)
            yield f"| `{name}` | {event.level} | {event.meaning} | {'; '.join(fields)} |"
        yield ""


def _table(title: str, head: tuple[str, str], rows: Mapping[str, str]) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"| {head[0]} | {head[1]} |"
    yield "|---|---|"
    for name, what in rows.items():
        yield f"| `{name}` | {what} |"
    yield ""


def main(argv: Sequence[str]) -> int:
    """Write the page, or print it with --print."""
    if list(argv) == ["--print"]:
        sys.stdout.write(document())
    else:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
