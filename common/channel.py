"""One socket's life on the actor's end of the link: questions by number, answers to who asked, the rest told on.

A channel that broke stays broken; who needs the learner makes a fresh one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator

import zmq
import zmq.asyncio

from common.log import Reminder, about_nothing, get_logger
from common.messages import Message, Unreadable
from common.sockets import close_client, connection_events
from common.tcp import Tap, wire_bytes
from common.wire import decode

log = get_logger(__name__)
SAID_AGAIN = 2  # times
HELD_BYTES = 64 << 20  # that the other side may make this socket hold, above what was read from it
LOOK_SECONDS = 0.1


def backoff(first: float = 1.0, last: float = 32.0) -> Iterator[float]:
    """Growing waits with jitter, for ever: 1, 2, 4 ... 32 seconds, each a quarter more or less."""
    chance = random.SystemRandom()
    for doublings in itertools.count():
        yield min(last, first * 2 ** min(doublings, 16)) * chance.uniform(0.75, 1.25)


class Channel:
    """One socket's life: questions by number, answers to who asked.

    Every message passes `hear` first, in the order of arrival; whoever waits for an answer may get to it much later.
    """

    def __init__(self, socket: zmq.asyncio.Socket, hear: Callable[[Message], None]) -> None:
        self._socket = socket
        self._hear = hear
        self._numbers = itertools.count(1)
        self._asked: dict[bytes, asyncio.Future[Message]] = {}
        self._connected = False
        self._curve = socket.getsockopt(zmq.MECHANISM) == zmq.CURVE
        self._tap: Tap | None = None
        self._delivered = 0  # bytes of the present connection that were read from the socket
        self._unreadable = Reminder(time.monotonic)
        self.failure = ""  # of the handshake: "", "key_refused" or "failed"
        self.failure_reason = ""  # in words, when it failed
        self.broken = False
        self.dropped = False  # broken by this side
        # they outlive the lease whose message happens to be the first
        works = (self._read(), self._watch(), self._bound())
        self._tasks = [asyncio.create_task(work, context=about_nothing()) for work in works]

    async def ask(self, body: bytes, patience: float) -> Message:
        """The answer. What the other side could not read may have been spoiled on its way: it is said again, twice.

        Raises:
            TimeoutError: no answer within `patience` seconds, or the connection broke.
        """
        for _ in range(SAID_AGAIN):
            answer = await self._ask_once(body, patience)
            if not isinstance(answer, Unreadable):
                return answer
            log.warning("said_again", reason=answer.reason, bytes=len(body))
        return await self._ask_once(body, patience)

    async def _ask_once(self, body: bytes, patience: float) -> Message:
        if self.broken:
            raise TimeoutError("the connection broke")
        number = next(self._numbers).to_bytes(8, "big")
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            await self._socket.send_multipart([number, body], flags=zmq.NOBLOCK, copy=False)
            since = asyncio.get_running_loop().time()
            while not (await asyncio.wait([answer], timeout=patience))[0]:
                waited, since = asyncio.get_running_loop().time() - since, asyncio.get_running_loop().time()
                if waited < 1.5 * patience + 1:
                    raise TimeoutError(f"no answer in {patience:.1f} s")
                # this process itself stood still: the answer may well lie in the socket
            return answer.result()
        except zmq.Again:
            raise TimeoutError("too many messages wait to be sent") from None
        finally:
            self._asked.pop(number, None)
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # looked at, so that asyncio does not complain of one that nobody awaited

    def close(self) -> None:
        self.dropped = not self.broken
        self._break("the connection was dropped")
        for task in self._tasks:
            task.cancel()
        self._drop_tap()
        close_client(self._socket)

    async def _read(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            self._delivered += sum(wire_bytes(len(frame), curve=self._curve) for frame in frames)
            try:
                number, body = frames
                message = decode(body)
            except ValueError as error:
                if self._unreadable.is_due():
                    log.warning("unreadable_frame", reason=str(error), bytes=sum(map(len, frames)))
                continue
            self._hear(message)
            waiting = self._asked.get(number)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)

    async def _watch(self) -> None:
        async with contextlib.aclosing(connection_events(self._socket)) as events:
            async for event in events:
                if event.what == "connected":
                    self._look_at(event.descriptor)
                elif event.what == "succeeded":
                    self._connected = True
                elif event.what == "disconnected" and self._connected:
                    self._break("the connection broke")
                elif event.what == "key_refused":
                    self.failure = event.what
                    self._break("the key was refused")
                elif event.what == "failed":
                    self.failure, self.failure_reason = event.what, event.reason

    async def _bound(self) -> None:
        """A learner that sends more than is read, or a message without an end, is left: this process stays small."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._tap is None:
                continue
            try:
                held = self._tap.passed()[0] - self._delivered
                held -= self._tap.unread() if held > HELD_BYTES else 0
            except OSError:  # it is ending
                continue
            if held > HELD_BYTES:
                log.warning("learner_sends_too_much", held_bytes=held, allowed=HELD_BYTES, address=self._tap.address)
                self._tap.cut()
                self._break(f"the learner sent {held >> 20} MiB that nobody asked for")

    def _look_at(self, descriptor: int) -> None:
        """A fresh connection of this socket; the one before is gone."""
        if self.broken:
            return
        self._drop_tap()
        self._delivered = 0
        with contextlib.suppress(OSError):  # gone already
            self._tap = Tap(descriptor)

    def _drop_tap(self) -> None:
        if self._tap is not None:
            self._tap.close()
            self._tap = None

    def _break(self, reason: str) -> None:
        self.broken = True
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(TimeoutError(reason))
