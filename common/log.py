"""Structured logs: JSON lines into a file of the run folder, and a pleasant form on a terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import structlog


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for one module; what `configure` set applies from then on."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(module=name)
    return logger


class _Fork:
    """Writes each event as one JSON line to a file, and the pleasant or JSON form to a stream."""

    def __init__(self, descriptor: int | None, stream: TextIO | None) -> None:
        self._descriptor = descriptor
        self._torn = False  # the last line was written in part
        self._stream = stream
        self._json = structlog.processors.JSONRenderer(default=repr)
        self._console = structlog.dev.ConsoleRenderer(colors=bool(stream and stream.isatty()), pad_event_to=24)

    def __call__(self, logger: Any, method: str, event: structlog.typing.EventDict) -> str:
        if self._descriptor is not None:
            # one write a line: a forked child, like vLLM's engine, appends to the same file
            line = str(self._json(logger, method, dict(event))) + "\n"
            data = b"\n" * self._torn + line.encode()
            with contextlib.suppress(OSError):  # a full disk costs lines of the log, not the process
                self._torn = os.write(self._descriptor, data) < len(data)
        if self._stream is None:
            raise structlog.DropEvent
        render = self._console if self._stream.isatty() else self._json
        return str(render(logger, method, event))


def configure(
    process: str, *, file: Path | None = None, console: bool = True, level: str = "info", **fields: Any
) -> None:
    """Set up this process's logs; every line carries `process` and `fields` (run, actor, ...).

    `file` is appended to. Warnings of other packages come through the same stream, tagged with their logger.
    """
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    stream = sys.stderr if console else None
    sink = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if file is not None else None
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _Fork(sink, stream),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process=process, **fields)
    logging.basicConfig(handlers=[_Relay()], level=logging.WARNING, force=True)


class _Relay(logging.Handler):
    """Carries other packages' warnings, and what they say of exceptions, into the structured stream."""

    def emit(self, record: logging.LogRecord) -> None:
        event = {"text": record.getMessage()[:2000]}
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = "".join(traceback.format_exception(*record.exc_info))[-4000:]
        level = max(record.levelno, logging.WARNING)
        structlog.get_logger(module=record.name).log(level, "library_warning", **event)


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
