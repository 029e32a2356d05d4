"""Proxies between the two real ends of the link, seeded; each in an event loop of its own thread.

`TcpProxy` knows nothing of what it carries: bytes come late, end in mid-stream, lack their end, have a bit turned.
`Meddler` holds the secret keys of both sides, so it speaks with each as the other: whole messages come twice, late,
behind those that followed them, cut short, spoiled, or larger than anybody takes.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import zmq
import zmq.asyncio

from common.keys import actor_keys, learner_keys
from common.wire import MAX_MESSAGE_BYTES, unpack

BYTES_BETWEEN = (200, 4_000)  # two faults of a connection's direction
MESSAGES_BETWEEN = 6  # of a direction
QUIET_SECONDS = 5.0  # after which a connection's other half is closed
HOST = "127.0.0.1"


class InThread:
    """An event loop in a thread; `fault` says what happens now and then ("" for nothing), `done` what happened."""

    def __init__(self, seed: int) -> None:
        self.fault, self.done, self.port = "", Counter[str](), 0
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=type(self).__name__)

    def __enter__(self):
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _begin(self, work) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await self._close()
        failures = [end for end in ended if isinstance(end, Exception)]
        assert not failures, failures


class TcpProxy(InThread):
    """Faults: `late`, `cut`, `short` (the rest of a write is lost, then the connection), `flip`."""

    def __init__(self, upstream: int, seed: int) -> None:
        super().__init__(seed)
        self._upstream = upstream

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._joined, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._begin(self._carry(reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(HOST, self._upstream)
        except OSError:  # the gateway is away
            writer.transport.abort()
            return
        pumps = [(reader, upstream_writer), (upstream_reader, writer)]
        tasks = [asyncio.create_task(self._pump(*ends)) for ends in pumps]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for end in (writer, upstream_writer):
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self._chance.randrange(*BYTES_BETWEEN)
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                fault, place = self.fault, left
                left -= len(data)
                if fault and left < 0:
                    left = self._chance.randrange(*BYTES_BETWEEN)
                    self.done[fault] += 1
                    match fault:
                        case "late":
                            await asyncio.sleep(self._chance.uniform(0.1, 1.5))
                        case "cut":
                            return
                        case "short":
                            writer.write(data[:place])
                            await writer.drain()
                            return
                        case "flip":
                            bit = 1 << self._chance.randrange(8)
                            data = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
                writer.write(data)
                await writer.drain()


class Meddler(InThread):
    """Between one actor and one port of the gateway. Faults, of every seventh message of a direction in turn:

    `twice`, `late` (behind those that follow), `short`, `flip`, `long` (bytes behind the message), `huge`.
    """

    def __init__(self, keys: Path, actor: str, upstream: int, faults: Sequence[str], seed: int) -> None:
        super().__init__(seed)
        self._learner, self._actor = learner_keys(keys), actor_keys(keys, actor)
        self._upstream, self._faults = upstream, faults
        self._count = {"up": 0, "down": 3}
        self._halves: dict[bytes, zmq.asyncio.Socket] = {}

    async def _open(self) -> None:
        self._context = zmq.asyncio.Context()
        self._router = self._socket(zmq.ROUTER)
        self._router.curve_publickey, self._router.curve_secretkey = self._learner.public, self._learner.secret
        self._router.curve_server = True
        self._router.bind(f"tcp://{HOST}:*")
        self.port = int(self._router.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self._begin(self._up())

    async def _close(self) -> None:
        self._context.destroy(linger=0)

    def _socket(self, kind: int) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, -1)
        return socket

    async def _up(self) -> None:
        """What the actor says, a connection of the gateway's for each of its own."""
        while True:
            routing, *frames = await self._router.recv_multipart()
            if routing not in self._halves:
                half = self._halves[routing] = self._socket(zmq.DEALER)
                half.curve_publickey, half.curve_secretkey = self._actor.own.public, self._actor.own.secret
                half.curve_serverkey = self._learner.public
                half.connect(f"tcp://{HOST}:{self._upstream}")
                self._begin(self._down(routing, half))
            await self._deal("up", frames, self._halves[routing].send_multipart)

    async def _down(self, routing: bytes, half: zmq.asyncio.Socket) -> None:
        async def answer(frames: list[bytes]) -> None:
            with suppress(zmq.ZMQError):  # the actor has left this connection
                await self._router.send_multipart([routing, *frames])

        while await half.poll(QUIET_SECONDS * 1000):
            await self._deal("down", await half.recv_multipart(), answer)
        del self._halves[routing]
        half.close()

    async def _deal(self, way: str, frames: list[bytes], send) -> None:
        self._count[way] += 1
        turn, rest = divmod(self._count[way], MESSAGES_BETWEEN + 1)
        if not self.fault or rest:
            await send(frames)
            return
        fault = self._faults[turn % len(self._faults)]
        self.done[f"{fault} {way}"] += 1
        body = frames[-1]
        match fault:
            case "twice":
                await send(frames)
            case "late":
                self._begin(self._later(send, frames))
                return
            case "short":
                frames = [*frames[:-1], body[: self._chance.randrange(len(body))]]
            case "flip":
                frames = [*frames[:-1], self._broken(body)]
            case "long":
                frames = [*frames[:-1], body + self._chance.randbytes(self._chance.randrange(1, 5000))]
            case "huge":
                frames = [*frames[:-1], body + bytes(MAX_MESSAGE_BYTES)]
        await send(frames)

    async def _later(self, send, frames: list[bytes]) -> None:
        await asyncio.sleep(self._chance.uniform(0.1, 0.8))
        with suppress(zmq.ZMQError):  # closed meanwhile
            await send(frames)

    def _broken(self, body: bytes) -> bytes:
        """With a bit turned where nothing of it can be read any more; other bits only the keys' holder could turn."""
        while True:
            place, bit = self._chance.randrange(len(body)), 1 << self._chance.randrange(8)
            flipped = body[:place] + bytes([body[place] ^ bit]) + body[place + 1 :]
            try:
                unpack(flipped)
            except ValueError:
                return flipped
