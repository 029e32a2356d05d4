"""Both ends of a link as tests need them: a bare ROUTER that answers what a test says, and an actor's link to it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import zmq
import zmq.asyncio

from common.config import LinkConfig
from common.keys import KeyList, actor_keys, learner_keys
from common.link import ActorLink
from common.messages import PROTOCOL_VERSION, Goodbye, HeartbeatReply, Hello, Message, Unreadable, Welcome
from common.prompt import form_digest
from common.sockets import Gatekeeper, name_and_frames, server_socket
from common.wire import decode, encode, schema_digest

WELCOME = Welcome(run_id="r", policy_version=0, manifest_digest="ab", heartbeat_seconds=0.1, credit_bytes=1 << 20)
REPLY = HeartbeatReply(policy_version=0, manifest_digest="ab", credit_bytes=1 << 20)
BYE = Goodbye(reason="test")
HELLO = Hello(
    protocol=PROTOCOL_VERSION,
    actor="actor-0",
    instance="i0",
    slots=4,
    schema_digest=schema_digest(),
    prompt_digest=form_digest(),
)


class Learner:
    """A bare server: `answer` says what each message gets, None for nothing at all."""

    def __init__(self, keys: Path, answer, port: int = 0) -> None:
        self.heard: list[tuple[str, Message]] = []
        self.context = zmq.asyncio.Context()
        self.gatekeeper = Gatekeeper(self.context, KeyList(keys))
        self.socket, self.port = server_socket(self.context, learner_keys(keys), "127.0.0.1", port, heard=100, said=100)
        self.answer = answer
        self.routing = b""

    async def serve(self) -> None:
        gate = asyncio.create_task(self.gatekeeper.serve())
        try:
            while True:
                name, (self.routing, number, body) = name_and_frames(await self.socket.recv_multipart(copy=False))
                message = decode(body)
                self.heard.append((name, message))
                reply = self.answer(message)
                if reply is not None:
                    with contextlib.suppress(zmq.ZMQError):  # gone meanwhile, or it reads nothing: others are heard
                        await self.socket.send_multipart([self.routing, number, encode(reply)], flags=zmq.NOBLOCK)
        finally:
            gate.cancel()
            await asyncio.gather(gate, return_exceptions=True)


@contextlib.asynccontextmanager
async def learner(keys: Path, answer, port: int = 0):
    made = Learner(keys, answer, port)
    serving = asyncio.create_task(made.serve())
    try:
        yield made
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        made.socket.close()
        made.gatekeeper.close()
        made.context.destroy(linger=0)


@contextlib.asynccontextmanager
async def actor(keys: Path, port: int, *, heartbeat_seconds: float = 0.1):
    config = LinkConfig(port=port, keys=keys, heartbeat_seconds=heartbeat_seconds, silence_intervals=3)
    link = ActorLink(config, actor_keys(keys, "actor-0"), lambda: HELLO)
    try:
        yield link
    finally:
        await link.close()


@contextlib.asynccontextmanager
async def both(keys: Path, answer):
    """A learner that answers so, and an actor's link to it."""
    async with learner(keys, answer) as there, actor(keys, there.port) as link:
        yield there, link


async def told(logs, event: str) -> None:
    """Until the log has an event."""
    while not any(entry["event"] == event for entry in logs):  # noqa: ASYNC110 - a log has nothing to await
        await asyncio.sleep(0.01)


def welcoming(message: Message) -> Message:
    return WELCOME if isinstance(message, Hello) else REPLY


def echoing(message: Message) -> Message:
    return WELCOME if isinstance(message, Hello) else Unreadable(reason=message.reason)


def run(coroutine) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))
