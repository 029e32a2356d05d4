import asyncio
import os
import threading

import pytest
from scripted import make_lease

from actor.episode import Episode, Turn
from actor.outbox import Outbox
from actor.trajectory import trajectory_of
from common.errors import RunError, UsageError
from common.link import NotUnderstood
from common.messages import Ack, HeartbeatReply, LeaseReturn
from common.wire import decode, encode


def make_trajectory(lease_id):
    return trajectory_of(Episode(make_lease(lease_id), [1, 2], turns=[Turn(1, 2, (-1.0,), (0,))]), "actor-0")


def make_ack(trajectory_id, outcome="ok"):
    return Ack(
        trajectory_id=trajectory_id, outcome=outcome, policy_version=3, manifest_digest="ab", credit_bytes=1 << 20
    )


class Learner:
    """Answers trajectories by script: `outcomes` by id; ids in `silent` get no answer."""

    def __init__(self, outcomes=None, silent=()):
        self.outcomes, self.silent = outcomes or {}, set(silent)
        self.got = []
        self.acks = []

    async def request(self, message):
        message = decode(message) if isinstance(message, bytes) else message
        self.got.append(message)
        name = message.lease_id if isinstance(message, LeaseReturn) else message.trajectory_id
        if name in self.silent:
            await asyncio.Event().wait()
        return make_ack(name, self.outcomes.get(name, "ok"))


def open_outbox(folder, learner, run_id="run"):
    return Outbox(folder / "spool.sqlite", run_id, learner.request, learner.acks.append)


async def sent(outbox, *trajectories):
    """Spool trajectories and send until all are acknowledged."""
    for trajectory in trajectories:
        await outbox.add(trajectory)
    running = asyncio.create_task(outbox.run())
    await outbox.flushed()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_a_trajectory_leaves_the_spool_on_its_ack(tmp_path):
    learner = Learner()
    outbox = open_outbox(tmp_path, learner)
    trajectory = make_trajectory("g1.0.0")
    asyncio.run(sent(outbox, trajectory))
    assert learner.got == [trajectory]
    assert [ack.trajectory_id for ack in learner.acks] == ["g1.0.0"]
    assert (outbox.ids, outbox.size) == ((), 0)
    outbox.close()
    assert open_outbox(tmp_path, learner).ids == ()


def test_a_trajectory_without_an_ack_is_sent_by_the_next_start(tmp_path):
    silent = Learner(silent=["g1.1.0"])
    outbox = open_outbox(tmp_path, silent)

    async def first_life():
        for lease_id in ("g1.0.0", "g1.1.0"):
            await outbox.add(make_trajectory(lease_id))
        running = asyncio.create_task(outbox.run())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await outbox.flushed()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(first_life())
    assert outbox.ids == ("g1.1.0",)
    outbox.close()

    learner = Learner()
    again = open_outbox(tmp_path, learner)
    assert again.ids == ("g1.1.0",)
    asyncio.run(sent(again))
    assert learner.got == [make_trajectory("g1.1.0")]


def test_a_trajectory_is_on_disk_before_it_is_sent(tmp_path):
    learner = Learner()
    outbox = open_outbox(tmp_path, learner)
    asyncio.run(outbox.add(make_trajectory("g1.0.0")))
    # as after a kill -9: another connection to the same file, nothing closed
    assert open_outbox(tmp_path, learner).ids == ("g1.0.0",)
    assert learner.got == []


def test_an_episode_that_is_cancelled_while_it_is_spooled_leaves_nothing_that_is_not_sent(tmp_path):
    learner = Learner()
    outbox = open_outbox(tmp_path, learner)

    async def cancelled_amid_its_write():
        hold = threading.Event()
        outbox._spool._disk.submit(hold.wait)
        adding = asyncio.create_task(outbox.add(make_trajectory("g1.0.0")))
        await asyncio.sleep(0)
        adding.cancel()
        await asyncio.gather(adding, return_exceptions=True)
        assert outbox.ids == ("g1.0.0",)
        hold.set()
        running = asyncio.create_task(outbox.run())
        await outbox.flushed()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(cancelled_amid_its_write())
    outbox.close()
    assert [message.trajectory_id for message in learner.got] == ["g1.0.0"]
    assert open_outbox(tmp_path, learner).ids == ()


@pytest.mark.parametrize("outcome", ["duplicate", "stale", "invalid", "fenced"])
def test_every_verdict_of_the_learner_is_final(tmp_path, outcome):
    learner = Learner({"g1.0.0": outcome})
    outbox = open_outbox(tmp_path, learner)
    asyncio.run(sent(outbox, make_trajectory("g1.0.0")))
    assert outbox.ids == ()


def test_a_silent_learner_holds_up_no_other_trajectory(tmp_path):
    learner = Learner(silent=["g1.0.0"])
    outbox = open_outbox(tmp_path, learner)

    async def send():
        for member in range(5):
            await outbox.add(make_trajectory(f"g1.{member}.0"))
        running = asyncio.create_task(outbox.run())
        while len(learner.acks) < 4:  # noqa: ASYNC110 - the acks are a plain list
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(send())
    assert outbox.ids == ("g1.0.0",)


def test_what_another_run_left_is_not_sent_and_not_lost(tmp_path):
    learner = Learner()
    outbox = open_outbox(tmp_path, learner, "run-a")
    asyncio.run(outbox.add(make_trajectory("g1.0.0")))
    outbox.close()
    assert open_outbox(tmp_path, learner, "run-b").ids == ()
    assert open_outbox(tmp_path, learner, "run-a").ids == ("g1.0.0",)


def test_a_spooled_frame_that_the_disk_has_lost_gives_its_lease_back_and_holds_up_no_other(tmp_path):
    learner = Learner()
    outbox = open_outbox(tmp_path, learner)
    for lease_id in ("g1.0.0", "g1.1.0"):
        asyncio.run(outbox.add(make_trajectory(lease_id)))
    outbox.close()
    (file,) = (tmp_path / "spool").iterdir()
    os.truncate(file, file.stat().st_size - 1)
    again = open_outbox(tmp_path, learner)
    asyncio.run(sent(again, make_trajectory("g1.2.0")))
    returned = [message for message in learner.got if isinstance(message, LeaseReturn)]
    assert [(message.lease_id, message.failure) for message in returned] == [("g1.1.0", True)]
    assert f"{file}: ends within the frame of" in returned[0].reason
    assert {message.trajectory_id for message in learner.got if message not in returned} == {"g1.0.0", "g1.2.0"}
    again.close()
    assert open_outbox(tmp_path, learner).ids == ()


def test_a_trajectory_that_the_learner_cannot_read_is_not_sent_for_ever(tmp_path):
    learner = Learner()

    async def request(message):
        if isinstance(message, bytes):
            learner.got.append(message)
            raise NotUnderstood("the learner could not read a message: kind: unknown")
        return await learner.request(message)

    outbox = Outbox(tmp_path / "spool.sqlite", "run", request, learner.acks.append)
    asyncio.run(sent(outbox, make_trajectory("g1.0.0")))
    assert learner.got[0] == encode(make_trajectory("g1.0.0"))
    assert [type(message) for message in learner.got] == [bytes, LeaseReturn]
    assert outbox.ids == ()


def test_an_answer_that_is_no_ack_keeps_the_trajectory(tmp_path):
    async def request(_message):
        return HeartbeatReply(policy_version=1, manifest_digest="", credit_bytes=1 << 20)

    outbox = Outbox(tmp_path / "spool.sqlite", "run", request, print)

    async def send():
        await outbox.add(make_trajectory("g1.0.0"))
        await outbox.run()

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(send())
    assert "HeartbeatReply" in str(caught.value.exceptions[0])
    assert isinstance(caught.value.exceptions[0], RunError)
    assert outbox.ids == ("g1.0.0",)


def test_a_file_that_is_no_spool_is_refused_in_one_line(tmp_path):
    (tmp_path / "spool.sqlite").write_text("no database, but long enough to be looked at as one" * 20)
    with pytest.raises(UsageError, match="not a usable spool"):
        open_outbox(tmp_path, Learner())
