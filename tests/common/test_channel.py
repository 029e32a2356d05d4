"""One socket's life on the actor's end, with real sockets."""

from __future__ import annotations

import asyncio
import socket

import pytest
import zmq.asyncio
from link_ends import HELLO, WELCOME, learner, run, welcoming

from common.channel import Channel
from common.keys import actor_keys
from common.sockets import client_socket
from common.wire import encode


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_channel_that_is_closed_while_its_connection_ends_leaves_the_context_alive(keys, first):
    """libzmq waits for ever to tell a monitor that is gone, in the thread that serves all sockets of the context."""

    async def check() -> None:
        context, own = zmq.asyncio.Context(), actor_keys(keys, "actor-0")
        try:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                for _ in range(300):  # one in a hundred met it
                    endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
                    channel = Channel(client_socket(context, own, endpoint, 8), lambda _: None)
                    theirs, _ = await asyncio.to_thread(listener.accept)
                    ends = [channel.close, theirs.close]
                    for end in ends if first == "ours" else reversed(ends):
                        end()
                    await asyncio.sleep(0)  # its tasks come to their ends
            async with learner(keys, welcoming) as there:
                channel = Channel(client_socket(context, own, f"tcp://127.0.0.1:{there.port}", 8), lambda _: None)
                assert await channel.ask(encode(HELLO), 10) == WELCOME
                channel.close()
        finally:
            context.destroy(linger=0)

    run(check())
