"""A learner with the right key that is broken or means ill: the actor's end of the link stays small, and goes on."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
import zmq
from hostile import memory
from link_ends import BYE, REPLY, actor, learner, run, told, welcoming
from structlog.testing import capture_logs

from common import channel
from common.keys import new_keys
from common.messages import Announcement
from common.sockets import ANSWER_BYTES
from common.wire import encode

# a look is a tenth of a second apart, in which libzmq takes in what it can decrypt, and a message may be in hand
BEYOND = 224 << 20


@pytest.fixture
def keys(tmp_path):
    for name in ("learner", "actor-0"):
        new_keys(tmp_path / "keys", name)
    return tmp_path / "keys"


async def push(there, frames, until):
    """Send to the actor, again after two seconds, in the way of a learner that has the right key.

    Queueing keeps this process, which is the actor too, from looking: no second message while the first is under way.
    """
    clock, again_at = asyncio.get_running_loop().time, 0.0
    async with asyncio.timeout(25):
        while not until():
            if clock() >= again_at:
                with contextlib.suppress(zmq.ZMQError):  # it left, and comes back under another routing id
                    await there.socket.send_multipart([there.routing, *frames], flags=zmq.NOBLOCK, copy=False)
                again_at = clock() + 2.0
            await asyncio.sleep(0.01)


def grown_by(base):
    return memory(os.getpid(), "VmHWM") - base


def begin():
    """The process's size now, from which its largest is counted anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory(os.getpid(), "VmRSS")


@pytest.mark.parametrize("frame_bytes", [1 << 20, 4096], ids=["large-frames", "small-frames"])
def test_a_message_without_an_end_is_left_and_the_actor_asks_again(keys, frame_bytes):
    async def check():
        async with learner(keys, welcoming) as there, actor(keys, there.port) as link:
            await link.connect()
            endless = [zmq.Frame(os.urandom(frame_bytes))] * ((1 << 30) // frame_bytes)
            with capture_logs() as logs:
                base = begin()
                await push(there, endless, lambda: any(e["event"] == "learner_sends_too_much" for e in logs))
                assert grown_by(base) < channel.HELD_BYTES + BEYOND
            assert await link.request(BYE) == REPLY

    run(check())


def test_a_frame_above_the_largest_answer_ends_the_connection_and_the_actor_asks_again(keys):
    async def check():
        async with learner(keys, welcoming) as there, actor(keys, there.port) as link:
            await link.connect()
            first, base = there.routing, begin()
            await there.socket.send_multipart([there.routing, b"", bytes(ANSWER_BYTES + 1)])
            while there.routing == first:
                assert await link.request(BYE) == REPLY
            assert grown_by(base) < 4 * ANSWER_BYTES

    run(check())


def test_floods_of_garbage_and_of_announcements_leave_the_newest_and_a_line_of_log(keys):
    async def check():
        async with learner(keys, welcoming) as there, actor(keys, there.port) as link:
            await link.connect()
            with capture_logs() as logs:
                for number in range(3000):
                    news = Announcement(policy_version=number, manifest_digest="ab")
                    for frames in ([b"", os.urandom(100)], [b"n" * 1000, b"", b""], [b"", encode(news)]):
                        await there.socket.send_multipart([there.routing, *frames])
                while link.current[0] != 2999:  # noqa: ASYNC110 - nothing is told that could be awaited
                    await asyncio.sleep(0.01)
                await told(logs, "unreadable_frame")
            assert len([entry for entry in logs if entry["event"] == "unreadable_frame"]) <= 3
            waiting = []
            async for announcement in link.announcements():
                waiting.append(announcement.policy_version)
                if announcement.policy_version == 2999:
                    break
            assert waiting == list(range(2984, 3000))
            assert await link.request(BYE) == REPLY

    run(check())
