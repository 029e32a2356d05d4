"""Structured logs: JSON lines into a file of the run folder and to a stream, and a pleasant form on a terminal.

    log.info("event", key=value)
        ─► what the lease, the trajectory, the message at hand is (bound by `about`)
        ─► what the process is: process, run, actor ─► time, level ─► the run folder's file   FILE, FILE.1, ...
                                                                   └► standard output or error

Every event stands in `common.events`, with its level and its fields. A service (`loop learner`, `loop actor`) logs to
standard output, where systemd and pipes find it; a command logs to standard error, for its standard output is its
result. Either is JSON lines, or on a terminal the pleasant form. A process that one of ours started writes to its file,
and where the one that started it is a service without a terminal, to that one's standard output.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime as dt
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from common.last_errors import remember
from common.log_file import LogFile

if TYPE_CHECKING:
    import structlog

PARENT = "LOOP_PARENT"  # environment variable: the id of the process that started this one
SHARED = "LOOP_LOG_DESCRIPTOR"  # environment variable: where the lines go besides the file, as a service's children do
MOST_BYTES, KEPT = 64 << 20, 4
# how every line begins; what does not apply is left out
HEAD = (
    *("timestamp", "level", "event", "module", "process", "run", "actor"),
    *("lease", "group", "trajectory", "task", "policy_version"),
)
MOST_TEXT, MOST_TRACEBACK = 2000, 4000  # characters of another package's words

_process: dict[str, Any] = {}  # what every line of this process carries, whatever thread or task writes it
_sink: _Sink | None = None


def about(**fields: Any) -> contextlib.AbstractContextManager[None]:
    """A context within which every line carries these fields (lease, task, ...), in tasks that begin there too."""
    import structlog  # noqa: PLC0415 - as in `_Logger`

    return structlog.contextvars.bound_contextvars(**fields)


class _Logger:
    """Looks structlog up when something is logged: it brings rich and asyncio, and `--help` logs nothing."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._found: Any = None

    def __getattr__(self, method: str) -> Any:
        if self._found is None:
            import structlog  # noqa: PLC0415 - see above

            self._found = structlog.get_logger(module=self._module)
        return getattr(self._found, method)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for one module; what `configure` set applies from then on."""
    return cast("structlog.stdlib.BoundLogger", _Logger(name))


def configure(
    process: str,
    *,
    file: Path | None = None,
    most_bytes: int = MOST_BYTES,
    kept: int = KEPT,
    to: Literal["output", "error", "file"] = "error",
    level: str = "info",
    **fields: Any,
) -> None:
    """Set up this process's logs; every line carries `process` and `fields` (run, actor, ...).

    Warnings of other packages come through the same stream, tagged with their source.

    Args:
        process: which it is, such as "gateway".
        file: is appended to.
        most_bytes: it is set aside before it grows beyond.
        kept: how many that were set aside stay.
        to: "output" for a service, "error" for a command whose standard output is its result, "file" for neither.
        level: the least that is logged.
        fields: of every line.
    """
    import structlog  # noqa: PLC0415 - as in `_Logger`

    global _sink  # noqa: PLW0603 - a process has one log
    stream = _stream_of(to, has_file=file is not None)
    _sink = _Sink(LogFile(file, most_bytes, kept) if file is not None else None, stream)
    _process.clear()
    identify(process=process, **fields)
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_process,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        remember,
        _in_order,
        _sink,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    logging.basicConfig(handlers=[_Relay()], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)


def identify(**fields: Any) -> None:
    """What every line of this process carries from now on, besides what `configure` said; empty ones are left out."""
    _process.update({name: value for name, value in fields.items() if value not in ("", None)})


def about_nothing() -> contextvars.Context:
    """A context for a task that outlives the lease or the message that it happens to begin with."""
    import structlog  # noqa: PLC0415 - as in `_Logger`

    context = contextvars.copy_context()
    context.run(structlog.contextvars.clear_contextvars)
    return context


def shared_descriptor() -> int | None:
    """The descriptor that a child process may log to as well, to be passed on with its number in `SHARED`."""
    return _sink.shared if _sink is not None else None


def _stream_of(to: str, *, has_file: bool) -> TextIO | None:
    passed_on = os.environ.pop(SHARED, "")  # not for what this process starts
    if passed_on and to == "output":
        with contextlib.suppress(OSError, ValueError):
            os.set_inheritable(int(passed_on), False)
            return os.fdopen(int(passed_on), "w", encoding="utf-8", closefd=False)
    if to == "file" or (has_file and PARENT in os.environ):  # its parent keeps what it prints: not twice on one disk
        return None
    return sys.stdout if to == "output" else sys.stderr


def _add_process(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {**_process, **event}


def _in_order(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    head = {name: event.pop(name) for name in HEAD if name in event}
    return {**head, **event}


class _Sink:
    """Writes each event as one JSON line to the file, and the pleasant or JSON form to the stream.

    What cannot be written is lost: a full disk or a reader that went away costs lines, not the process.
    """

    def __init__(self, file: LogFile | None, stream: TextIO | None) -> None:
        import structlog  # noqa: PLC0415 - as in `_Logger`

        self._file, self._stream, self._drop = file, stream, structlog.DropEvent
        self._is_terminal = stream is not None and stream.isatty()
        self._json = structlog.processors.JSONRenderer(default=repr)
        self._console = structlog.dev.ConsoleRenderer(colors=True, pad_event_to=24, sort_keys=False)
        self.shared: int | None = None
        if stream is not None and stream is sys.stdout and not self._is_terminal:
            with contextlib.suppress(OSError, ValueError):  # a stand-in without a descriptor, as in a test
                self.shared = os.dup(stream.fileno())

    def __call__(self, logger: Any, method: str, event: structlog.typing.EventDict) -> str:
        line = str(self._json(logger, method, dict(event))) + "\n"
        if self._file is not None:
            self._file.write(line.encode(errors="replace"))
        if self._stream is not None:
            text = self._pleasant(logger, method, event) if self._is_terminal else line
            try:
                self._stream.write(text)
                self._stream.flush()
            except BrokenPipeError:
                self._hang_up(self._stream)
            except (OSError, ValueError):
                pass
        raise self._drop

    def _pleasant(self, logger: Any, method: str, event: structlog.typing.EventDict) -> str:
        """Without what is the same in every line, and with this machine's time."""
        moment = dt.datetime.fromisoformat(event["timestamp"]).astimezone()
        own = {name for name, value in _process.items() if event.get(name) == value}
        shown = {name: value for name, value in event.items() if name not in own | {"module", "timestamp"}}
        return str(self._console(logger, method, {"timestamp": f"{moment:%H:%M:%S}", **shown})) + "\n"

    def _hang_up(self, stream: TextIO) -> None:
        """Nobody reads any more; what Python still holds for the reader would fail again when the process ends."""
        self._stream = None
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


class _Relay(logging.Handler):
    """Carries other packages' warnings, and what they say of exceptions, into the structured stream."""

    def emit(self, record: logging.LogRecord) -> None:
        event = {"source": _source_of(record.name), "text": record.getMessage()[:MOST_TEXT]}
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = "".join(traceback.format_exception(*record.exc_info))[-MOST_TRACEBACK:]
        log = get_logger(record.name)
        if record.levelno >= logging.ERROR:
            log.error("library_error", **event)
        else:
            log.warning("library_warning", **event)


def _source_of(name: str) -> str:
    """Which package a logger is of; Python's own warnings come from the logger `py.warnings`."""
    package = name.partition(".")[0]
    return "python" if package == "py" else package


class Stopwatch:
    """Seconds by name, for the figures that say where time goes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, name: str) -> float:
        """Seconds since the last lap, added to `name`."""
        now = time.monotonic()
        elapsed, self._since = now - self._since, now
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
        return elapsed


class Reminder:
    """Whether to say again that one waits: at once when the waiting begins, then every ten seconds."""

    def __init__(self, clock: Callable[[], float], seconds: float = 10.0) -> None:
        self._clock = clock
        self._seconds = seconds
        self._said_at = -seconds

    def is_due(self) -> bool:
        now = self._clock()
        if now - self._said_at < self._seconds:
            return False
        self._said_at = now
        return True

    def over(self) -> None:
        """The waiting is over; the next one is said at once."""
        self._said_at = -self._seconds
