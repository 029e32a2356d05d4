"""One socket's life on the actor's end of the link: questions by number, answers to who asked, the rest told on.

A channel that broke stays broken; who needs the learner makes a fresh one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Iterator

import zmq
import zmq.asyncio

from common.log import get_logger
from common.messages import Message
from common.sockets import connection_events
from common.wire import decode

log = get_logger(__name__)


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
        self.failure = ""  # of the handshake: "", "key_refused" or "failed"
        self.broken = False
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._watch())]

    async def ask(self, body: bytes, patience: float) -> Message:
        """The answer. Raises TimeoutError: none within `patience` seconds, or the connection broke."""
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
        self._break("the connection was dropped")
        for task in self._tasks:
            task.cancel()
        self._socket.close(linger=0)

    async def _read(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            try:
                number, body = frames
                message = decode(body)
            except ValueError as error:
                log.warning("unreadable_frame", reason=str(error), bytes=sum(map(len, frames)))
                continue
            self._hear(message)
            waiting = self._asked.get(number)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)

    async def _watch(self) -> None:
        async with contextlib.aclosing(connection_events(self._socket)) as events:
            async for event in events:
                if event.what == "succeeded":
                    self._connected = True
                elif event.what == "disconnected" and self._connected:
                    self._break("the connection broke")
                elif event.what == "key_refused":
                    self.failure = event.what
                    self._break("the key was refused")
                elif event.what == "failed":
                    self.failure = event.what

    def _break(self, reason: str) -> None:
        self.broken = True
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(TimeoutError(reason))
