"""Hundreds of episodes ask for their worlds at once: more than the host's socket holds."""

import asyncio
import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

from actor.world.client import WorldHost
from actor.world.config import WorldConfig
from actor.world.transport import ready
from actor.world.warm_host import WarmHost


def test_every_opening_reaches_a_host_that_reads_later():
    async def scenario():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        host = WorldHost(WorldConfig(), Path("python"), Path("root"))
        host._host = WarmHost(Path("python"), {"scratch": "scratch"}, required=False)
        host._host.process = SimpleNamespace(sock=ours, alive=True)
        arrived = []
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            async with asyncio.timeout(60):
                asking = [asyncio.create_task(host._ask(number, "task_1", theirs.fileno())) for number in range(1000)]
                await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                full_at = sum(task.done() for task in asking)
                while len(arrived) < len(asking):
                    await ready(theirs, write=False)
                    data, (descriptor,), _, _ = socket.recv_fds(theirs, 1 << 16, 1)
                    os.close(descriptor)
                    arrived.append(json.loads(data)["open"])
                await asyncio.gather(*asking)
        return full_at, arrived

    full_at, arrived = asyncio.run(scenario())
    assert full_at < 1000, "the socket held all of them: nothing was shown"
    assert arrived == list(range(1000))
