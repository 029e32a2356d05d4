"""Lines of logs for the tests of `loop tail`, as `common.log` writes them."""

import json

BEGIN = "2020-11-23T04:00:"


def at(seconds):
    """The time so many seconds after four o'clock, below a minute."""
    return f"{BEGIN}{seconds:09.6f}Z"


def line(seconds, event="step_made", /, *, level="info", process="trainer", **fields):
    """One line, with its end."""
    head = {"timestamp": at(seconds), "level": level, "event": event, "module": "some.module", "process": process}
    return json.dumps({**head, **fields}) + "\n"


def run_of(folder, **logs):
    """A run folder with these logs; their names with `__1` for what was rotated once."""
    (folder / "logs").mkdir(parents=True)
    for name, lines in logs.items():
        base, _, number = name.partition("__")
        (folder / "logs" / f"{base}.jsonl{'.' + number if number else ''}").write_text("".join(lines))
    return folder


def events_in(text):
    """The events of lines that were printed as JSON."""
    return [json.loads(row)["event"] for row in text.splitlines()]
