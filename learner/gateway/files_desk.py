"""Stage 11, the gateway's files port: a question for a chunk comes in, the chunk goes out.

Waits for nothing but the page cache: one chunk at a time is in memory, and an actor that does not read asks again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import zmq
import zmq.asyncio

from common.log import get_logger
from common.messages import FileRequest, Message, Unreadable
from common.sockets import name_and_frames, question_in
from common.wire import decode, encode
from learner.gateway.blobs import Blobs
from learner.gateway.guard import Guard
from learner.gateway.quarantine import Quarantine

log = get_logger(__name__)


class FilesDesk:
    """Answers on the files port.

    Args:
        socket: the port's ROUTER.
        blobs: what there is to fetch.
        guard: told what is taken and given, and which connections were cut.
        on_fetch: told who asks for which version, and when (seconds, monotonic): it is in use.
        quarantine: where frames go that are no question for a chunk.
    """

    def __init__(
        self,
        socket: zmq.asyncio.Socket,
        blobs: Blobs,
        guard: Guard,
        on_fetch: Callable[[str, int, float], None],
        quarantine: Quarantine,
    ) -> None:
        self._quarantine = quarantine
        self._socket = socket
        self._blobs = blobs
        self._guard = guard
        self._on_fetch = on_fetch

    async def serve(self) -> None:
        """Until cancelled."""
        while True:
            frames = await self._socket.recv_multipart(copy=False)
            if not self._guard.heard(frames):
                continue
            name, parts = name_and_frames(frames)
            routing, number, body, wrong = question_in(parts)
            answer = Unreadable(reason=wrong) if wrong else self._answer(name, body)
            if isinstance(answer, Unreadable):
                self._quarantine.put(name, body, answer.reason)
            with contextlib.suppress(zmq.ZMQError):  # gone, or does not read: it asks again
                frame = encode(answer)
                await self._socket.send_multipart([routing, number, frame], flags=zmq.NOBLOCK)
                self._guard.said(routing, number, frame)

    def _answer(self, name: str, body: bytes) -> Message:
        try:
            request = decode(body)
        except ValueError as error:
            return Unreadable(reason=str(error))
        if not isinstance(request, FileRequest):
            return Unreadable(reason=f"{type(request).__name__} does not belong on the files port")
        self._on_fetch(name, request.policy_version, time.monotonic())
        chunk = self._blobs.chunk(request)
        if chunk.error:
            told = {"file": request.name, "reason": chunk.error}
            log.warning("chunk_missing", actor=name, policy_version=request.policy_version, **told)
        return chunk
