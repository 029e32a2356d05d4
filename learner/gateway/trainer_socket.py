"""The trainer's unix socket (stages 5 and 11): one question at a time comes in, its durable answer goes out.

A question for groups that are not there yet waits here for them, a second at most; while the disk takes nothing, only
that one is answered, with the reason, and the trainer asks the others again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

import zmq.asyncio

from common.log import Reminder, get_logger
from common.messages import Message
from common.wire import decode_as, encode
from learner.gateway.trainer_desk import Answer, TrainerDesk
from learner.gateway.trainer_port import Groups, Impossible, NextGroups, NotYet, TrainerBeat, TrainerMessage
from learner.gateway.trainer_watch import TrainerWatch

log = get_logger(__name__)
T = TypeVar("T")
PARKED_SECONDS = 1.0  # that the trainer's question for groups waits here


class Durably(Protocol):
    """Gives what the work gives, once it is on the disk; None when the disk takes no more."""

    def __call__(self, work: Callable[[], T], /) -> T | None: ...


class TrainerSocket:
    """Serves the trainer.

    Args:
        socket: the ROUTER.
        desk: what is answered.
        durably: does the desk's work.
        lacking: what is waited for before anything can be written, in words; empty as a rule.
        anyone: whether any actor lives.
        watch: told what the trainer says.
    """

    def __init__(
        self,
        socket: zmq.asyncio.Socket,
        desk: TrainerDesk,
        durably: Durably,
        lacking: Callable[[], str],
        anyone: Callable[[], bool],
        *,
        watch: TrainerWatch | None = None,
    ) -> None:
        self._socket, self._desk = socket, desk
        self.watch = watch or TrainerWatch()
        self._durably, self._lacking, self._anyone = durably, lacking, anyone
        self._changed = asyncio.Event()
        self._reminder = Reminder(time.monotonic)
        self.waits_for = ""  # in words, what the trainer's question for groups waits for

    def news(self) -> None:
        """Something changed: what waits is looked at again."""
        self._changed.set()

    async def serve(self) -> None:
        """Until cancelled."""
        while True:
            frames = await self._socket.recv_multipart()
            if len(frames) != 3:
                continue
            routing, number, body = frames
            try:
                message = decode_as(TrainerMessage, body)
                self.watch.heard(message)
                answer = None if isinstance(message, TrainerBeat) else await self._answer(message)
            except ValueError as error:
                answer = Impossible(reason=str(error)), []
            if answer is not None:  # else it asks again
                await self._socket.send_multipart([routing, number, encode(answer[0]), *answer[1]])

    async def _answer(self, message: Message) -> Answer | None:
        deadline = asyncio.get_running_loop().time() + PARKED_SECONDS
        while True:
            durable = None if self._lacking() else self._durably(partial(self._desk.answer, message))
            self._changed.clear()
            if durable is not None and not isinstance(durable[0], NotYet):
                self.waits_for = ""
                self._reminder.over()
                if isinstance(message, NextGroups) and isinstance(durable[0], Groups):
                    self.watch.handed(message.step)
                return durable
            if durable is None and not isinstance(message, NextGroups):
                return None
            answer = durable[0] if durable is not None else NotYet(reason=self._lacking())
            assert isinstance(answer, NotYet)
            if not self._anyone():
                answer = NotYet(reason=f"an actor to connect, then {answer.reason}")
            self.waits_for = answer.reason
            if self._reminder.is_due():
                log.info("trainer_waits", waiting_for=answer.reason)
            self.watch.parked(waits=True)
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                return answer, []
            finally:
                self.watch.parked(waits=False)
