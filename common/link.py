"""The actor's end of the link (stage 4): requests that are answered or repeated, announcements, files in chunks.

    request ──► socket ══ CURVE ══► gateway          no answer in time, or the connection broke:
    answer  ◄── by number ◄════════ gateway            a fresh socket, Hello, Welcome, and the request once more
    announcements ◄── number "" ◄══ gateway

Repeating is safe because the gateway knows trajectories, leases and returns by their ids. A learner that restarts is
found again without a word from the owner of the link. Times are seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

import zmq.asyncio

from common.channel import Channel, backoff
from common.config import LinkConfig
from common.errors import RunError
from common.keys import ActorKeys, fingerprint
from common.log import get_logger
from common.messages import (
    Ack,
    Announcement,
    FileChunk,
    FileRequest,
    HeartbeatReply,
    Hello,
    Message,
    Refused,
    Unreadable,
    Welcome,
    encode,
)
from common.sockets import client_socket

log = get_logger(__name__)

CHUNK_BYTES = 512 << 10
CHUNKS_IN_FLIGHT = 6
SLOWEST_BYTES_PER_SECOND = 1e6  # a large request gets that much longer before it counts as lost
SAY_WAITING_FIRST, SAY_WAITING_EVERY = 1.0, 5.0


class NotUnderstood(RunError):  # noqa: N818 - it names what happened
    """The gateway answered that it could not read a message; sent again, it would be no better."""


class ActorLink:
    """One actor's connection to the learner: `connect` first, then `request` from any number of tasks.

    Args:
        config: where the learner is, and its heartbeat interval.
        keys: this actor's key and the learner's.
        hello: makes the `Hello` of each connection (the leases held change); its `instance` is the process's.
    """

    def __init__(self, config: LinkConfig, keys: ActorKeys, hello: Callable[[], Hello]) -> None:
        self._config = config
        self._keys = keys
        self._hello = hello
        self._context = zmq.asyncio.Context()
        self._endpoint = f"tcp://{config.host}:{config.port}"
        self._channel: Channel | None = None
        self._greeting = asyncio.Lock()
        self._announced: deque[Announcement] = deque(maxlen=16)
        self._news = asyncio.Event()
        self._welcome: Welcome | None = None
        self._current = (-1, "")

    @property
    def welcome(self) -> Welcome:
        """The last `Welcome`. Only after `connect`."""
        assert self._welcome is not None, "connect() comes first"
        return self._welcome

    @property
    def current(self) -> tuple[int, str]:
        """Policy version and manifest digest that the message which arrived last told; -1 before the first.

        Ask here rather than an answer in hand: a newer word may have arrived while the answer waited to be looked at.
        """
        return self._current

    async def connect(self) -> Welcome:
        """Wait for the learner, saying so every few seconds, and be welcomed.

        Raises:
            RunError: refused: a key that is not listed, another protocol; by its reason.
        """
        await self._welcomed()
        return self.welcome

    async def request(self, message: Message) -> Message:
        """The gateway's answer. Waits through a learner's absence; limit it from outside with `asyncio.timeout`.

        A large message should be one of few at a time: its owner bounds what is under way.

        Raises:
            RunError: the gateway refused this actor for good, or serves another run.
            NotUnderstood: it could not read the message.
            ValueError: the message is larger than the link carries.
        """
        body = encode(message)
        patience = self._config.heartbeat_seconds * self._config.silence_intervals
        patience += len(body) / SLOWEST_BYTES_PER_SECOND
        while True:
            channel = await self._welcomed()
            try:
                answer = await channel.ask(body, patience)
            except TimeoutError as error:
                log.warning("request_repeated", kind=_kind_of(message), learner=self._endpoint, reason=str(error))
                self._leave(channel)
                continue
            if isinstance(answer, Refused) and answer.temporary:
                log.info("hello_again", learner=self._endpoint, reason=answer.reason)
                self._leave(channel)
                continue
            if isinstance(answer, Refused):
                raise RunError(f"the learner at {self._endpoint} refused: {answer.reason}")
            if isinstance(answer, Unreadable):
                raise NotUnderstood(f"the learner at {self._endpoint} could not read a message: {answer.reason}")
            return answer

    async def announcements(self) -> AsyncIterator[Announcement]:
        """New versions in the order in which any message told of them, the newest 16 if nobody looked."""
        while True:
            while self._announced:
                yield self._announced.popleft()
            self._news.clear()
            await self._news.wait()

    async def close(self) -> None:
        """Drop the connection; say `Goodbye` by `request` before."""
        if self._channel is not None:
            self._leave(self._channel)
        self._context.destroy(linger=0)

    async def _welcomed(self) -> Channel:
        async with self._greeting:
            if self._channel is not None and self._channel.broken:
                self._leave(self._channel)
            if self._channel is None:
                waiting = asyncio.create_task(self._say_waiting())
                try:
                    self._channel = await self._greet()
                finally:
                    waiting.cancel()
            return self._channel

    async def _greet(self) -> Channel:
        for patience in backoff():
            channel = Channel(client_socket(self._context, self._keys, self._endpoint, 256), self._hear)
            try:
                answer = await channel.ask(encode(self._hello()), patience)
            except TimeoutError:
                failure = channel.failure
                channel.close()
                self._judge_failure(failure)
                continue
            except BaseException:
                channel.close()
                raise
            if isinstance(answer, Welcome):
                self._take(answer)
                return channel
            channel.close()
            if not isinstance(answer, Refused) or not answer.temporary:
                reason = answer.reason if isinstance(answer, Refused | Unreadable) else f"answered {_kind_of(answer)}"
                raise RunError(f"the learner at {self._endpoint} refused {self._keys.own.name}: {reason}")
            log.warning("refused_for_now", learner=self._endpoint, reason=answer.reason)
            await asyncio.sleep(min(patience, self._config.heartbeat_seconds))
        raise AssertionError("backoff() never ends")

    def _judge_failure(self, failure: str) -> None:
        mark = fingerprint(self._keys.own.public)
        if failure == "key_refused":
            reason = (
                f"the learner at {self._endpoint} does not list the key of {self._keys.own.name} (fingerprint {mark}); "
                f"put {self._keys.own.name}.public into keys/actors/ there"
            )
            if self._welcome is None:
                log.error("key_refused", learner=self._endpoint, actor_key=self._keys.own.name, fingerprint=mark)
                raise RunError(reason)
            log.error("key_refused", learner=self._endpoint, fingerprint=mark, reason=reason)
        elif failure == "failed":
            expected = fingerprint(self._keys.learner_public)
            log.error(
                "handshake_failed",
                learner=self._endpoint,
                reason="it speaks no CURVE, or its key is not the one in learner.public",
                expected_fingerprint=expected,
            )

    def _take(self, welcome: Welcome) -> None:
        if self._welcome is not None and welcome.run_id != self._welcome.run_id:
            raise RunError(
                f"the learner at {self._endpoint} now serves run {welcome.run_id}, "
                f"this actor joined {self._welcome.run_id}; start it anew"
            )
        log.info("welcomed", learner=self._endpoint, run=welcome.run_id, policy_version=welcome.policy_version)
        self._welcome = welcome

    def _hear(self, message: Message) -> None:
        """Whatever tells a version that was not the last one told is an announcement."""
        if isinstance(message, Announcement | Ack | HeartbeatReply | Welcome):
            told = (message.policy_version, message.manifest_digest)
            if told != self._current and told[0] >= 0:
                self._current = told
                self._announced.append(Announcement(policy_version=told[0], manifest_digest=told[1]))
                self._news.set()

    def _leave(self, channel: Channel) -> None:
        channel.close()
        if self._channel is channel:
            self._channel = None

    async def _say_waiting(self) -> None:
        await asyncio.sleep(SAY_WAITING_FIRST)
        while True:
            log.info("waiting_for_learner", at=f"{self._config.host}:{self._config.port}")
            await asyncio.sleep(SAY_WAITING_EVERY)


class FileLink:
    """Files of published versions, in chunks that the receiver asks for."""

    def __init__(self, config: LinkConfig, keys: ActorKeys) -> None:
        self._config = config
        self._keys = keys
        self._context = zmq.asyncio.Context()
        self._endpoint = f"tcp://{config.host}:{config.files_port}"
        self._channel: Channel | None = None

    async def fetch(self, version: int, name: str, offset: int, length: int) -> FileChunk:
        """One chunk, asked for until it comes; it may be shorter than asked, and its `error` says if there is none.

        Raises:
            RunError: the gateway could not read the request.
        """
        body = encode(FileRequest(policy_version=version, name=name, offset=offset, length=length))
        patience = self._config.heartbeat_seconds * self._config.silence_intervals
        for extra in backoff():
            if self._channel is None or self._channel.broken:
                if self._channel is not None:
                    self._channel.close()
                self._channel = Channel(client_socket(self._context, self._keys, self._endpoint, 64), _ignore)
            channel = self._channel
            try:
                answer = await channel.ask(body, patience + extra)
            except TimeoutError as error:
                log.warning("chunk_repeated", at=self._endpoint, file=name, offset=offset, reason=str(error))
                channel.close()
                await asyncio.sleep(min(extra, 1.0))
                continue
            if isinstance(answer, FileChunk):
                return answer
            reason = answer.reason if isinstance(answer, Unreadable) else f"answered {_kind_of(answer)}"
            raise RunError(f"the learner at {self._endpoint} gave no chunk of {name}: {reason}")
        raise AssertionError("backoff() never ends")

    async def fetch_file(self, version: int, name: str, size: int, target: Path) -> None:
        """Write a whole file to `target`, going on from its present length; synced when it returns.

        Bytes arrive in order, so a cut leaves a whole beginning. The caller compares the digest.

        Raises:
            RunError: the learner has no such file, or of another size.
        """
        stream, present = _open_to_go_on(target, size)
        offsets = iter(range(present, size, CHUNK_BYTES))
        with stream:
            under_way: deque[asyncio.Task[bytes]] = deque()
            try:
                for offset in itertools.islice(offsets, CHUNKS_IN_FLIGHT):
                    under_way.append(asyncio.create_task(self._whole_chunk(version, name, offset, size)))
                while under_way:
                    stream.write(await under_way.popleft())
                    for offset in itertools.islice(offsets, 1):
                        under_way.append(asyncio.create_task(self._whole_chunk(version, name, offset, size)))
            finally:
                for task in under_way:
                    task.cancel()
            stream.flush()
            os.fsync(stream.fileno())

    async def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._context.destroy(linger=0)

    async def _whole_chunk(self, version: int, name: str, offset: int, size: int) -> bytes:
        wanted = min(CHUNK_BYTES, size - offset)
        parts: list[bytes] = []
        while wanted:
            chunk = await self.fetch(version, name, offset, wanted)
            if chunk.error:
                raise RunError(f"version {version}, {name}: {chunk.error}")
            if chunk.size != size or not 0 < len(chunk.data) <= wanted or chunk.offset != offset:
                raise RunError(
                    f"version {version}, {name}: {chunk.size} bytes at the learner, the manifest says {size}"
                )
            parts.append(chunk.data)
            offset, wanted = offset + len(chunk.data), wanted - len(chunk.data)
        return b"".join(parts)


def _kind_of(message: Message) -> str:
    return str(getattr(message, "kind", type(message).__name__))


def _ignore(_message: Message) -> None:
    """The files port announces nothing."""


def _open_to_go_on(target: Path, size: int) -> tuple[BinaryIO, int]:
    """The file at its end, and its length; what is beyond `size` is cut off."""
    stream = target.open("r+b" if target.exists() else "w+b")
    present = min(stream.seek(0, os.SEEK_END), size)
    stream.truncate(present)
    stream.seek(present)
    return stream, present
