"""The trainer's side of its heartbeats (stages 6 to 10): what it is at, told to the gateway beside its work.

A thread of its own with a socket of its own: a long step does not keep it from speaking, a process that stands still
does. Nobody answers, and nothing waits: what cannot be sent is not told.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from pathlib import Path

import zmq

from common.last_errors import NewErrors
from common.status_messages import MOST_ERRORS
from common.wire import encode
from learner.gateway.trainer_port import TrainerBeat, trainer_socket

QUEUED = 4  # beats that wait for a gateway that is away


class TrainerBeats:
    """Speaks from when it is made until `close`, every so many seconds and whenever something else begins.

    Args:
        run_folder: whose gateway.
        every: seconds.
        doing: what the trainer is at first.
    """

    def __init__(self, run_folder: Path, every: float, doing: str) -> None:
        self._address = f"ipc://{trainer_socket(run_folder)}"
        self._every = every
        self._now = (doing, 0, time.monotonic())
        self._errors = NewErrors()
        self._changed, self._closed = threading.Event(), threading.Event()
        context = contextvars.copy_context()  # the log's fields
        self._thread = threading.Thread(target=context.run, args=(self._speak,), name="beats", daemon=True)
        self._thread.start()

    def at(self, doing: str, step: int) -> None:
        """What the trainer is at from now on."""
        self._now = (doing, step, time.monotonic())
        self._changed.set()

    def close(self) -> None:
        self._closed.set()
        self._changed.set()
        self._thread.join()

    def _speak(self) -> None:
        with zmq.Context() as zmq_context, zmq_context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, QUEUED)
            socket.setsockopt(zmq.RECONNECT_IVL, 50)
            socket.connect(self._address)
            while not self._closed.is_set():
                self._changed.clear()
                doing, step, since = self._now
                errors = self._errors.take(MOST_ERRORS)
                beat = TrainerBeat(doing=doing, step=step, seconds=time.monotonic() - since, errors=errors)
                with contextlib.suppress(zmq.Again):
                    socket.send_multipart([b"", encode(beat)], flags=zmq.NOBLOCK)
                self._changed.wait(self._every)
