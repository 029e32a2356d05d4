"""What is not answered: when it is sent again, from which socket, and after which wait. The waits are scripted."""

import asyncio

import pytest
from link_ends import BYE, REPLY, WELCOME, both, run
from structlog.testing import capture_logs

from common.keys import new_keys
from common.messages import Goodbye, Hello


@pytest.fixture
def keys(tmp_path):
    for name in ("learner", "actor-0"):
        new_keys(tmp_path, name)
    return tmp_path


class Deaf:
    """Welcomes, and leaves the first `count` other questions without an answer."""

    def __init__(self, count):
        self.left = count
        self.sockets = []
        self.there = None

    def __call__(self, message):
        if isinstance(message, Hello):
            return WELCOME
        self.sockets.append(self.there.routing)
        self.left -= 1
        return REPLY if self.left < 0 else None


def test_what_times_out_is_sent_again_from_a_fresh_socket_after_a_longer_wait_each_time(keys, monkeypatch):
    monkeypatch.setattr("common.link.backoff", lambda: iter([0.2, 0.3, 0.4]))
    deaf = Deaf(3)

    async def check():
        async with both(keys, deaf) as (there, link):
            deaf.there = there
            assert await link.request(BYE) == REPLY
            assert [type(message) for _, message in there.heard] == [Hello, Goodbye] * 4

    with capture_logs() as logs:
        run(check())
    assert len(set(deaf.sockets)) == 4
    repeated = [entry for entry in logs if entry["event"] == "request_repeated"]
    assert [entry["reason"] for entry in repeated] == ["no answer in 0.3 s"] * 3
    assert [(entry["kind"], entry["again_in"]) for entry in repeated] == [("goodbye", wait) for wait in (0.2, 0.3, 0.4)]


def test_another_requests_time_out_costs_a_request_no_wait_of_its_own(keys, monkeypatch):
    monkeypatch.setattr("common.link.backoff", lambda: iter([0.7] * 9))
    silent = []

    def answer(message):
        if isinstance(message, Hello):
            return WELCOME
        # the first of each is not answered; "slow" alone counts as timed out, since "quick" is asked later
        if message.reason not in silent:
            silent.append(message.reason)
            return None
        return REPLY

    async def check():
        async with both(keys, answer) as (_, link):
            await link.connect()
            slow = asyncio.create_task(link.request(Goodbye(reason="slow")))
            await asyncio.sleep(0.15)
            assert await link.request(Goodbye(reason="quick")) == REPLY
            assert await slow == REPLY

    with capture_logs() as logs:
        run(check())
    repeated = [(entry["reason"], entry["again_in"]) for entry in logs if entry["event"] == "request_repeated"]
    assert repeated == [("no answer in 0.3 s", 0.7), ("the connection was dropped", 0.0)]
