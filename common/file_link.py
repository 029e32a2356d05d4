"""Files of published versions over the link (stages 11 and 12), in chunks that the receiver asks for.

FileRequest ──► socket ══ CURVE ══► files port        several chunks under way; one that does not come, or whose
FileChunk   ◄── by number ◄════════ of the gateway    connection broke, is asked for again from a fresh socket
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from pathlib import Path
from typing import BinaryIO

import zmq.asyncio

from common.channel import Channel, backoff
from common.config import LinkConfig
from common.errors import RunError
from common.keys import ActorKeys
from common.log import get_logger
from common.messages import FileChunk, FileRequest, Message, Unreadable
from common.sockets import client_socket
from common.wire import encode

log = get_logger(__name__)

CHUNK_BYTES = 512 << 10
CHUNKS_IN_FLIGHT = 6


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
            reason = answer.reason if isinstance(answer, Unreadable) else f"answered {type(answer).__name__}"
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


def _ignore(_message: Message) -> None:
    """The files port announces nothing."""


def _open_to_go_on(target: Path, size: int) -> tuple[BinaryIO, int]:
    """The file at its end, and its length; what is beyond `size` is cut off."""
    stream = target.open("r+b" if target.exists() else "w+b")
    present = min(stream.seek(0, os.SEEK_END), size)
    stream.truncate(present)
    stream.seek(present)
    return stream, present
