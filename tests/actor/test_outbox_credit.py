"""The outbox over a real link with CURVE, against a learner that counts what is under way before it acknowledges."""

import asyncio
import contextlib

import pytest
from link_ends import Learner, actor
from scripted import make_lease
from structlog.testing import capture_logs

from actor.episode import Episode, Turn
from actor.outbox import Outbox
from actor.trajectory import trajectory_of
from common.keys import new_keys
from common.messages import Ack, Hello, Trajectory, Welcome
from common.sockets import name_and_frames
from common.wire import decode, encode

QUIET = 0.2  # seconds in which nothing comes: all that the credit allows has come; shorter would see less, not more


def make_trajectory(member, tokens):
    turn = Turn(1, tokens, (-1.0,) * (tokens - 1), (0,) * (tokens - 1))
    return trajectory_of(Episode(make_lease(f"g1.{member}.0"), list(range(tokens)), turns=[turn]), "actor-0")


class Counting:
    """Acknowledges the oldest when nothing more comes, with the next of the given granted (the last again and again).

    `seen`: at each quiet moment, the bytes under way and the credit that was in force.
    """

    def __init__(self, keys, granted):
        self._learner = Learner(keys, None)
        self.port = self._learner.port
        self._granted = list(granted)
        self._held = []
        self.credit = self._granted[0]
        self.seen = []
        self.names = []

    async def serve(self):
        gate = asyncio.create_task(self._learner.gatekeeper.serve())
        try:
            while True:
                if await self._learner.socket.poll(QUIET * 1000):
                    await self._hear()
                elif self._held:
                    await self._acknowledge()
        finally:
            gate.cancel()
            await asyncio.gather(gate, return_exceptions=True)
            self._learner.socket.close(linger=0)
            self._learner.gatekeeper.close()
            self._learner.context.destroy(linger=0)

    async def _hear(self):
        _, (routing, number, body) = name_and_frames(await self._learner.socket.recv_multipart(copy=False))
        message = decode(body)
        if isinstance(message, Hello):
            answer = Welcome(
                run_id="r", policy_version=0, manifest_digest="", heartbeat_seconds=9.0, credit_bytes=self.credit
            )
            await self._learner.socket.send_multipart([routing, number, encode(answer)])
        elif isinstance(message, Trajectory):
            self._held.append((routing, number, message.trajectory_id, len(body)))
            self.names.append(message.trajectory_id)

    async def _acknowledge(self):
        self.seen.append((sum(held[-1] for held in self._held), len(self._held), self.credit))
        routing, number, name, _ = self._held.pop(0)
        if len(self._granted) > 1:
            self._granted.pop(0)
        self.credit = self._granted[0]
        told = {"policy_version": 0, "manifest_digest": "", "credit_bytes": self.credit}
        await self._learner.socket.send_multipart(
            [routing, number, encode(Ack(trajectory_id=name, outcome="ok", **told))]
        )


def send(tmp_path, trajectories, granted):
    """All of them through an outbox until they are acknowledged; what the learner counted."""
    for name in ("learner", "actor-0"):
        new_keys(tmp_path / "keys", name)

    async def whole():
        counting = Counting(tmp_path / "keys", granted)
        serving = asyncio.create_task(counting.serve())
        async with actor(tmp_path / "keys", counting.port, heartbeat_seconds=20.0) as link:
            welcome = await link.connect()
            outbox = Outbox(
                tmp_path / "spool.sqlite", "r", link.request, lambda _: None, credit_bytes=welcome.credit_bytes
            )
            link.on_credit = outbox.grant
            for trajectory in trajectories:
                await outbox.add(trajectory)
            running = asyncio.create_task(outbox.run())
            await outbox.flushed()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            outbox.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return counting

    return asyncio.run(asyncio.wait_for(whole(), 60))


def test_the_bytes_under_way_never_exceed_the_credit_and_make_use_of_it(tmp_path):
    trajectories = [make_trajectory(member, 1000) for member in range(12)]
    size = len(encode(trajectories[0]))
    counting = send(tmp_path, trajectories, [4 * size + size // 2])
    assert [count for _, count, _ in counting.seen] == [4] * 9 + [3, 2, 1]
    assert all(under_way <= credit for under_way, _, credit in counting.seen)
    assert counting.names == [f"g1.{member}.0" for member in range(12)]


def test_a_shrinking_credit_is_obeyed_and_a_credit_of_none_means_one_at_a_time(tmp_path):
    trajectories = [make_trajectory(member, 1000) for member in range(10)]
    size = len(encode(trajectories[0]))
    counting = send(
        tmp_path, trajectories, [4 * size + 9, 2 * size + 9, 2 * size + 9, 2 * size + 9, 0, 0, 3 * size + 9]
    )
    # four were under way when two became the limit: nothing is sent until two are acknowledged
    assert [count for _, count, _ in counting.seen[:7]] == [4, 3, 2, 2, 1, 1, 3]
    assert sorted(counting.names) == sorted(f"g1.{member}.0" for member in range(10))


def test_what_is_larger_than_the_credit_goes_alone(tmp_path):
    trajectories = [make_trajectory(0, 50), make_trajectory(1, 4000), make_trajectory(2, 50)]
    counting = send(tmp_path, trajectories, [len(encode(trajectories[0])) * 4])
    assert [count for _, count, _ in counting.seen] == [1, 1, 1]
    assert counting.names == ["g1.0.0", "g1.1.0", "g1.2.0"]


def test_what_waits_for_credit_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("actor.outbox.SAY_AGAIN_SECONDS", 0.05)

    async def check():
        async def silent(_message):
            await asyncio.Event().wait()

        outbox = Outbox(tmp_path / "spool.sqlite", "r", silent, print, credit_bytes=100)
        assert outbox.waiting_for == ""
        running = asyncio.create_task(outbox.run())
        for member in range(3):
            await outbox.add(make_trajectory(member, 50))
        size = len(encode(make_trajectory(0, 50)))
        while not any(entry["event"] == "outbox_waits" for entry in logs):  # noqa: ASYNC110 - a log has nothing to await
            await asyncio.sleep(0.01)
        waits = f"the learner to acknowledge {size} bytes under way: its credit is 100 bytes"
        assert outbox.waiting_for == waits
        assert next(entry for entry in logs if entry["event"] == "outbox_waits")["waiting_for"] == waits
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        outbox.close()

    with capture_logs() as logs:
        asyncio.run(asyncio.wait_for(check(), 30))


def test_a_trajectory_that_no_link_carries_is_refused_before_it_is_spooled(tmp_path, monkeypatch):
    trajectory = make_trajectory(0, 1000)
    size = len(encode(trajectory))
    monkeypatch.setattr("common.wire.MAX_MESSAGE_BYTES", 500)
    outbox = Outbox(tmp_path / "spool.sqlite", "r", None, print)
    with pytest.raises(ValueError, match=f"message of {size} bytes, allowed are 500"):
        asyncio.run(outbox.add(trajectory))
    assert outbox.ids == ()
    outbox.close()


def test_compressed_trajectories_lie_and_travel_as_zstd_frames(tmp_path):
    got = []

    async def request(frame):
        got.append(frame)
        told = {"policy_version": 0, "manifest_digest": "", "credit_bytes": 1}
        return Ack(trajectory_id="g1.0.0", outcome="ok", **told)

    async def check():
        outbox = Outbox(tmp_path / "spool.sqlite", "r", request, print, compress=True)
        await outbox.add(make_trajectory(0, 1000))
        size = outbox.size
        running = asyncio.create_task(outbox.run())
        await outbox.flushed()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        outbox.close()
        return size

    size = asyncio.run(check())
    assert got[0].startswith(b"\x28\xb5\x2f\xfd")
    assert size == len(got[0]) < len(encode(make_trajectory(0, 1000))) / 2
    assert decode(got[0]) == make_trajectory(0, 1000)
