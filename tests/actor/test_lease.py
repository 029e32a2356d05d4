import asyncio

import pytest
from scripted import make_lease

from actor.lease import Leases
from common.errors import RunError
from common.messages import Ack, HeartbeatReply, LeaseGrant, LeaseRequest, LeaseReturn


class Learner:
    """Grants what is in `grants`, one answer a request; then says that it waits."""

    def __init__(self, *grants):
        self.grants = [tuple(make_lease(name) for name in names) for names in grants]
        self.got = []

    async def request(self, message):
        self.got.append(message)
        if isinstance(message, LeaseReturn):
            return Ack(
                trajectory_id=message.lease_id, outcome="ok", policy_version=0, manifest_digest="", credit_bytes=1 << 20
            )
        if self.grants:
            return LeaseGrant(leases=self.grants.pop(0))
        return LeaseGrant(leases=(), waiting_for="step 3, which is under way")

    @property
    def asked(self):
        return [message.count for message in self.got if isinstance(message, LeaseRequest)]


def may():
    return ""


async def take(leases, count):
    return [await leases.next() for _ in range(count)]


def with_asking(leases, work, may_ask=may):
    async def main():
        asking = asyncio.create_task(leases.ask(may_ask))
        try:
            async with asyncio.timeout(5):
                return await work()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    return asyncio.run(main())


def test_all_free_slots_are_asked_for_at_once():
    learner = Learner(["g1.0.0", "g1.1.0", "g1.2.0"])
    leases = Leases(3, learner.request)
    taken = with_asking(leases, lambda: take(leases, 3))
    assert [lease.lease_id for lease in taken] == ["g1.0.0", "g1.1.0", "g1.2.0"]
    assert (learner.asked, leases.running, leases.free) == ([3], 3, 0)


def test_slots_that_free_up_together_are_asked_for_together():
    learner = Learner(["g1.0.0", "g1.1.0", "g1.2.0"], ["g2.0.0", "g2.1.0"])
    leases = Leases(3, learner.request)

    async def work():
        first = await take(leases, 3)
        leases.done(first[0])
        leases.done(first[1])
        return await take(leases, 2)

    with_asking(leases, work)
    assert learner.asked == [3, 2]


def test_a_learner_that_grants_nothing_is_asked_again_and_its_reason_kept():
    learner = Learner([], ["g1.0.0"])
    leases = Leases(1, learner.request)

    async def work():
        lease = await leases.next()
        leases.done(lease)
        while not leases.waiting_for:  # noqa: ASYNC110 - a plain attribute
            await asyncio.sleep(0)

    with_asking(leases, work)
    assert learner.asked[:2] == [1, 1]
    assert leases.waiting_for == "step 3, which is under way"


def test_news_ask_at_once():
    learner = Learner([])
    leases = Leases(1, learner.request)

    async def work():
        while not learner.asked:  # noqa: ASYNC110 - a plain list
            await asyncio.sleep(0)
        learner.grants = [(make_lease("g1.0.0"),)]
        leases.news()
        return await leases.next()

    assert with_asking(leases, work).lease_id == "g1.0.0"


def test_no_lease_is_asked_for_while_there_is_a_reason_not_to():
    learner = Learner(["g1.0.0"])
    leases = Leases(1, learner.request)

    async def work():
        while not leases.waiting_for:  # noqa: ASYNC110 - a plain attribute
            await asyncio.sleep(0)

    with_asking(leases, work, may_ask=lambda: "the spool is full")
    assert (learner.asked, leases.waiting_for) == ([], "the spool is full")


def test_a_lease_that_is_granted_twice_is_rolled_out_once():
    learner = Learner(["g1.0.0"], ["g1.0.0", "g1.1.0"])
    leases = Leases(2, learner.request)
    taken = with_asking(leases, lambda: take(leases, 2))
    assert [lease.lease_id for lease in taken] == ["g1.0.0", "g1.1.0"]


def test_held_are_those_that_wait_and_those_that_run():
    learner = Learner(["g1.0.0", "g1.1.0"])
    leases = Leases(2, learner.request)
    with_asking(leases, lambda: take(leases, 1))
    assert sorted(leases.ids) == ["g1.0.0", "g1.1.0"]
    assert leases.running == 1


def test_a_lease_that_cannot_be_fulfilled_is_returned_with_its_reason_and_its_slot_is_free():
    learner = Learner(["g1.0.0"])
    leases = Leases(1, learner.request)

    async def work():
        await leases.give_back(await leases.next(), "the world host died")

    with_asking(leases, work)
    assert LeaseReturn(lease_id="g1.0.0", reason="the world host died") in learner.got
    assert leases.ids == ()


def test_on_leaving_all_leases_are_returned():
    learner = Learner(["g1.0.0", "g1.1.0", "g1.2.0"])
    leases = Leases(3, learner.request)

    async def work():
        await leases.next()
        leases.stop_asking()
        await leases.give_back_all("SIGTERM")

    with_asking(leases, work)
    returned = {message.lease_id for message in learner.got if isinstance(message, LeaseReturn)}
    assert returned == {"g1.0.0", "g1.1.0", "g1.2.0"}
    assert leases.ids == ()


def test_a_lease_that_the_learner_cancelled_before_it_began_is_forgotten():
    learner = Learner(["g1.0.0", "g1.1.0"])
    leases = Leases(2, learner.request)

    async def work():
        await leases.next()
        leases.stop_asking()
        leases.drop_waiting({"g1.1.0"})

    with_asking(leases, work)
    assert leases.ids == ("g1.0.0",)


def test_a_cancelled_leases_slot_is_free_at_once_though_nobody_hears_how_long_its_episode_was(monkeypatch):
    monkeypatch.setattr("actor.lease.TELL_SECONDS", 0.01)
    told = []

    async def main():
        async def unanswered(message):
            told.append((message.lease_id, message.tokens, message.failure, leases.free))
            await asyncio.Event().wait()

        leases = Leases(2, unanswered)
        for tokens in (7, 0):
            await leases.cancelled(make_lease("g1.0.0"), tokens)

    asyncio.run(main())
    assert told == [("g1.0.0", 7, False, 2)], "a length of 0 is not known, so it is not told"


def test_an_answer_of_another_kind_ends_the_asking():
    async def request(_message):
        return HeartbeatReply(policy_version=1, manifest_digest="", credit_bytes=1 << 20)

    with pytest.raises(RunError, match="HeartbeatReply"):
        asyncio.run(Leases(1, request).ask(may))
