"""Files of published versions over the link (stages 11 and 12), in chunks that the receiver asks for.

FileRequest ──► socket ══ CURVE ══► files port        several chunks under way; one that does not come, or whose
FileChunk   ◄── by number ◄════════ of the gateway    connection broke, is asked for again from a fresh socket
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import zmq.asyncio

from common.channel import Channel, backoff
from common.checkpoint import sha256_begun
from common.config import LinkConfig
from common.errors import RunError
from common.keys import ActorKeys
from common.log import get_logger
from common.messages import FileChunk, FileRequest, Message, Unreadable
from common.sockets import client_socket
from common.wire import CHUNK_BYTES, encode

log = get_logger(__name__)

CHUNKS_IN_FLIGHT = 6


class FileLink:
    """Files of published versions, in chunks that the receiver asks for."""

    def __init__(self, config: LinkConfig, keys: ActorKeys | None) -> None:
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
                self._keys = self._keys.again() if self._keys is not None else None
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
            reason = answer.reason if isinstance(answer, Unreadable) else f"answered {type(answer).__name__}"
            raise RunError(f"the learner at {self._endpoint} gave no chunk of {name}: {reason}")
        raise AssertionError("backoff() never ends")

    async def fetch_file(self, version: int, name: str, size: int, target: Path) -> str:
        """Write a whole file to `target`, going on from its last byte, and give the sha256 of all of it, hex.

        Bytes arrive in order and are hashed as they are written, so a cut leaves a whole beginning and no byte that
        arrived is read again, but by who goes on after a cut. Synced when it returns; the caller compares the digest.

        Raises:
            RunError: the learner has no such file, or of another size.
            OSError: the disk is full, or fails.
        """
        present = _cut_to(target, size)
        digest = await sha256_begun(target)
        offsets = iter(range(present, size, CHUNK_BYTES))
        with target.open("r+b", buffering=0) as stream:
            stream.seek(present)
            under_way: deque[asyncio.Task[bytes]] = deque()
            try:
                for offset in itertools.islice(offsets, CHUNKS_IN_FLIGHT):
                    under_way.append(asyncio.create_task(self._whole_chunk(version, name, offset, size)))
                while under_way:
                    data = await under_way.popleft()
                    for offset in itertools.islice(offsets, 1):
                        under_way.append(asyncio.create_task(self._whole_chunk(version, name, offset, size)))
                    await _to_its_end(_append, stream, digest, data)
            finally:
                for task in under_way:
                    task.cancel()
                await asyncio.gather(*under_way, return_exceptions=True)
            await _to_its_end(os.fsync, stream.fileno())
        return digest.hexdigest()

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


def _ignore(_message: Message) -> None:
    """The files port announces nothing."""


def _cut_to(target: Path, size: int) -> int:
    """How many bytes are there already; what is beyond `size` is cut off."""
    with target.open("ab") as stream:
        present = min(stream.tell(), size)
        stream.truncate(present)
    return present


def _append(stream: FileIO, digest: hashlib._Hash, data: bytes) -> None:
    digest.update(data)
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]


async def _to_its_end(work: Callable[..., None], *arguments: object) -> None:
    """In a thread; whoever cancels this waits until it has ended, since the file is closed next."""
    working = asyncio.create_task(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise
