"""The actor's end of the link against a bare ROUTER that does what each test needs. Real sockets, CURVE on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import functools

import pytest
import zmq
import zmq.asyncio
from link_ends import BYE, REPLY, WELCOME, actor, both, learner, run, told, welcoming
from structlog.testing import capture_logs

from common.channel import backoff
from common.errors import RunError, UsageError
from common.keys import learner_keys, new_keys
from common.messages import Ack, Announcement, Goodbye, Hello, Refused, Unreadable
from common.sockets import server_socket
from common.wire import encode


def test_an_actor_is_known_by_its_keys_name(keys):
    async def check() -> None:
        async with both(keys, welcoming) as (there, link):
            assert await link.connect() == WELCOME
            assert await link.request(BYE) == REPLY
            assert there.heard[-1] == ("actor-0", BYE)

    run(check())


def test_answers_find_their_questions_in_any_order(keys):
    async def check() -> None:
        async with both(keys, lambda m: WELCOME if isinstance(m, Hello) else Unreadable(reason=m.reason)) as (
            _there,
            link,
        ):
            await link.connect()
            asked = [link.request(Goodbye(reason=str(n))) for n in range(20)]
            with pytest.raises(RunError, match="could not read a message: 7"):
                await asked[7]
            for n, question in enumerate(asked):
                if n != 7:
                    with pytest.raises(RunError, match=f"could not read a message: {n}$"):
                        await question

    run(check())


def test_what_was_not_understood_is_said_again_twice(keys):
    """It may have been spoiled on its way."""

    async def check() -> None:
        for times, outcome in ((2, REPLY), (3, None)):
            lost = [Unreadable(reason="cut short")] * times
            answer = functools.partial(_lose, lost)
            async with both(keys, answer) as (there, link):
                if outcome is None:
                    with pytest.raises(RunError, match="could not read a message: cut short"):
                        await link.request(BYE)
                else:
                    assert await link.request(BYE) == outcome
                assert [message for _, message in there.heard] == [there.heard[0][1], BYE, BYE, BYE]

    run(check())


def _lose(lost, message):
    return WELCOME if isinstance(message, Hello) else (lost.pop() if lost else REPLY)


def test_a_question_without_an_answer_is_asked_again_on_a_fresh_connection(keys):
    async def check() -> None:
        drops = [None]
        async with (
            learner(keys, lambda m: WELCOME if isinstance(m, Hello) else (drops.pop() if drops else REPLY)) as there,
            actor(keys, there.port) as link,
        ):
            await link.connect()
            first = there.routing
            assert await link.request(BYE) == REPLY
            assert there.routing != first
            assert [type(message).__name__ for _, message in there.heard] == [
                "Hello",
                "Goodbye",
                "Hello",
                "Goodbye",
            ]

    run(check())


def test_an_actor_finds_a_learner_that_restarted(keys):
    async def check() -> None:
        async with learner(keys, welcoming) as there:
            port = there.port
            stack = contextlib.AsyncExitStack()
            link = await stack.enter_async_context(actor(keys, port))
            await link.connect()
        waiting = asyncio.create_task(link.request(BYE))
        async with learner(keys, welcoming, port) as again:
            assert await waiting == REPLY
            assert [type(message).__name__ for _, message in again.heard] == ["Hello", "Goodbye"]
            await stack.aclose()

    run(check())


def test_an_actor_waits_for_a_learner_and_says_so(keys, monkeypatch):
    monkeypatch.setattr("common.link.SAY_WAITING_FIRST", 0.0)

    async def check() -> None:
        async with learner(keys, welcoming) as there:
            port = there.port
        with capture_logs() as logs:
            async with actor(keys, port) as link:
                connecting = asyncio.create_task(link.connect())
                await told(logs, "waiting_for_learner")
                assert not connecting.done()
                async with learner(keys, welcoming, port):
                    await connecting

    run(check())


def test_a_learner_of_another_run_is_not_joined_by_the_way(keys):
    async def check() -> None:
        welcomes = [WELCOME.model_copy(update={"run_id": "other"}), WELCOME]
        async with both(keys, lambda m: welcomes.pop() if isinstance(m, Hello) else None) as (_, link):
            await link.connect()
            with pytest.raises(RunError, match="now serves run other, this actor joined r"):
                await link.request(BYE)

    run(check())


def test_a_refusal_for_good_is_raised_and_one_for_now_is_waited_out(keys):
    async def check() -> None:
        answers = [WELCOME, Refused(reason="another actor-0 is alive", temporary=True)]
        async with both(keys, lambda _: answers.pop()) as (_, link):
            assert await link.connect() == WELCOME
        async with both(keys, lambda _: Refused(reason="protocol 2 there")) as (_, link):
            with pytest.raises(RunError, match="refused actor-0: protocol 2 there"):
                await link.connect()

    run(check())


def test_a_key_that_is_not_listed_is_refused_and_both_sides_say_so(keys, tmp_path):
    async def check() -> None:
        (keys / "actors" / "actor-0.public").unlink()
        with capture_logs() as logs:
            async with both(keys, welcoming) as (there, link):
                with pytest.raises(RunError, match=r"does not list the key of actor-0 \(fingerprint [0-9a-f]{16}\)"):
                    await link.connect()
                assert there.heard == []
                refused = {(entry["module"], entry["fingerprint"]) for entry in logs if entry["event"] == "key_refused"}
                assert len({fingerprint for _, fingerprint in refused}) == 1
                assert {module for module, _ in refused} == {"common.link", "common.sockets"}

    run(check())


def test_a_key_listed_later_is_let_in_without_a_restart(keys):
    async def check() -> None:
        public = keys / "actors" / "actor-0.public"
        hidden = public.rename(keys / "hidden")
        async with both(keys, welcoming) as (there, link):
            with pytest.raises(RunError):
                await link.connect()
            hidden.rename(public)
            there.gatekeeper._keys._looked_at = -1e9
            async with actor(keys, there.port) as again:
                assert await again.connect() == WELCOME

    run(check())


def test_an_actor_with_another_learners_key_names_it(keys, tmp_path):
    async def check() -> None:
        other = new_keys(tmp_path / "other", "learner")
        async with learner(keys, welcoming) as there:
            (keys / "learner.public").write_bytes(other.public)
            with capture_logs() as logs:
                async with actor(keys, there.port) as link:
                    connecting = asyncio.create_task(link.connect())
                    await told(logs, "handshake_failed")
                    connecting.cancel()
                    await asyncio.gather(connecting, return_exceptions=True)
            assert there.heard == []

    run(check())


@pytest.mark.parametrize("mechanism", ["no key at all", "curve without being listed"])
def test_a_stranger_is_not_heard(keys, mechanism):
    async def check() -> None:
        async with learner(keys, welcoming) as there:
            stranger = there.context.socket(zmq.DEALER)
            if mechanism != "no key at all":
                stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
                stranger.curve_serverkey = (keys / "learner.public").read_bytes().strip()
            stranger.connect(f"tcp://127.0.0.1:{there.port}")
            await stranger.send_multipart([b"1", encode(BYE)])
            async with actor(keys, there.port) as link:
                await link.connect()
                for _ in range(20):
                    await link.request(BYE)
            stranger.close(linger=0)
            assert {name for name, _ in there.heard} == {"actor-0"}

    run(check())


def test_announcements_come_as_they_are_made(keys):
    async def check() -> None:
        async with both(keys, welcoming) as (there, link):
            await link.connect()
            news = Announcement(policy_version=3, manifest_digest="cd")
            await there.socket.send_multipart([there.routing, b"", encode(news)])
            announced = aiter(link.announcements())
            assert (await anext(announced)).policy_version == WELCOME.policy_version
            assert await anext(announced) == news
            assert link.current == (3, "cd")

    run(check())


ACK = Ack(trajectory_id="g1.0.0", outcome="ok", policy_version=0, manifest_digest="ab", credit_bytes=1)


@pytest.mark.parametrize("answer", [REPLY, ACK], ids=["heartbeat", "ack"])
def test_an_actor_that_missed_the_announcement_learns_the_version_from_any_answer(keys, answer):
    async def check() -> None:
        newer = answer.model_copy(update={"policy_version": 1})
        async with both(keys, lambda m: WELCOME if isinstance(m, Hello) else newer) as (_, link):
            await link.connect()
            await link.request(BYE)
            await link.request(BYE)
            announced = aiter(link.announcements())
            assert [(await anext(announced)).policy_version for _ in range(2)] == [0, 1]
            assert link.current == (1, "ab")

    run(check())


def test_an_answer_that_was_overtaken_does_not_bring_back_an_old_version(keys):
    async def check() -> None:
        async with both(keys, welcoming) as (there, link):
            await link.connect()
            late = asyncio.create_task(link.request(BYE))
            while len(there.heard) < 2:  # noqa: ASYNC110 - a bare server has nothing to await
                await asyncio.sleep(0)
            await there.socket.send_multipart(
                [there.routing, b"", encode(Announcement(policy_version=1, manifest_digest="cd"))]
            )
            async for announcement in link.announcements():
                if announcement.policy_version == 1:
                    break
            assert (await late).policy_version == 0
            assert link.current == (1, "cd")

    run(check())


def test_a_frame_that_is_no_message_does_not_hurt(keys):
    async def check() -> None:
        async with both(keys, welcoming) as (there, link):
            await link.connect()
            for frames in ([b""], [b"", b"\xc1"], [b"x" * 8, b""], [b"", b"", b"", b""]):
                await there.socket.send_multipart([there.routing, *frames])
            assert await link.request(BYE) == REPLY

    run(check())


def test_a_port_in_use_is_one_clear_line(keys):
    async def check() -> None:
        async with learner(keys, welcoming) as there:
            with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{there.port}: cannot listen: another process"):
                server_socket(there.context, learner_keys(keys), "127.0.0.1", there.port, heard=1, said=1)

    run(check())


def test_backoff_grows_to_half_a_minute_with_jitter():
    waits = [wait for wait, _ in zip(backoff(), range(8), strict=False)]
    for wait, middle in zip(waits, (1, 2, 4, 8, 16, 32, 32, 32), strict=True):
        assert 0.75 * middle <= wait <= 1.25 * middle
