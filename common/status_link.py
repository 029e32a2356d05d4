"""The link of who asks how a run does: one question, repeated as often as wanted, no `Hello`.

StatusRequest ══ CURVE, a listed key or the learner's own ══► gateway ══► Status
"""

from __future__ import annotations

import asyncio
import time

import zmq.asyncio

from common.channel import Channel
from common.config import LinkConfig
from common.errors import RunError
from common.keys import LEARNER, ActorKeys, fingerprint
from common.messages import PROTOCOL_VERSION, Message, Refused, Status, StatusRequest, Unreadable
from common.sockets import client_socket
from common.wire import encode

QUEUED = 8


class Unreachable(RunError):  # noqa: N818 - it names what happened
    """Nobody answered; asked again later, somebody may."""


class StatusLink:
    """To one gateway; the connection is kept while it holds.

    Args:
        link: where it listens.
        keys: the key to ask with, and the learner's public one; None: an insecure link.
    """

    def __init__(self, link: LinkConfig, keys: ActorKeys | None) -> None:
        self.endpoint = f"tcp://{link.host}:{link.port}"
        self._keys = keys
        self._context = zmq.asyncio.Context()
        self._channel: Channel | None = None

    async def ask(self, patience: float) -> Status:
        """The run as it stands.

        Raises:
            Unreachable: no answer within `patience` seconds.
            RunError: the key is not listed, or the learner is of another version.
        """
        began = time.monotonic()
        while True:
            left = patience - (time.monotonic() - began)
            if self._channel is None or self._channel.broken:
                self._leave()
                self._channel = Channel(client_socket(self._context, self._keys, self.endpoint, QUEUED), _hear)
            channel = self._channel
            try:
                answer = await channel.ask(encode(StatusRequest(protocol=PROTOCOL_VERSION)), max(0.1, left))
            except TimeoutError:
                self._judge(channel, time.monotonic() - began)
                self._leave()
                if channel.broken and not channel.failure and time.monotonic() - began < patience:
                    await asyncio.sleep(0.1)  # it hung up; a gateway that starts anew is there in a moment
                    continue
                raise self._unreachable(time.monotonic() - began) from None
            return self._status_in(answer)

    def close(self) -> None:
        self._leave()
        self._context.destroy(linger=0)

    def _judge(self, channel: Channel, tried: float) -> None:
        """Raises what a handshake that failed means."""
        if channel.failure == "key_refused" and self._keys is not None:
            own = self._keys.own
            mark = fingerprint(own.public)
            remedy = (
                "this learner.secret is another learner's: ask with the keys of its run (--link.keys FOLDER)"
                if own.name == LEARNER
                else f"put {own.name}.public into keys/actors/ there"
            )
            raise RunError(
                f"the learner at {self.endpoint} does not list the key {own.name} (fingerprint {mark}): {remedy}"
            )
        if channel.failure:
            raise Unreachable(
                f"{self.endpoint}: the handshake failed, tried for {tried:.1f} s: {channel.failure_reason}"
            )

    def _unreachable(self, tried: float) -> Unreachable:
        return Unreachable(
            f"no answer from the learner at {self.endpoint}, tried for {tried:.1f} s: is it running, and is this its "
            "address (link.host, link.port; gateway.json in its run folder)?"
        )

    def _status_in(self, answer: Message) -> Status:
        if isinstance(answer, Status):
            return answer
        reason = answer.reason if isinstance(answer, Refused | Unreadable) else f"it answered {type(answer).__name__}"
        told = f"{reason}: install the same version on both sides" if isinstance(answer, Unreadable) else reason
        raise RunError(f"the learner at {self.endpoint} does not say how it does: {told}")

    def _leave(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _hear(_message: Message) -> None:
    """Nothing but answers matters here."""
