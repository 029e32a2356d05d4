"""Who is heard and who is named, with real sockets: keys that change while all runs, links without keys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

import pytest
from gateway_builders import actor_link, make_hello, make_keys, make_run, roll_out
from link_ends import told
from structlog.testing import capture_logs

from common.config import LinkConfig, RunConfig, parse_command_line
from common.errors import UsageError
from common.file_link import FileLink
from common.keys import new_keys
from common.link import ActorLink
from common.messages import Goodbye, LeaseGrant, LeaseRequest
from learner.gateway.ledger import Version
from learner.gateway.service import Gateway, opened

PATIENCE = 30.0  # seconds; a quiet machine needs one or two, a replaced key file five


@contextlib.asynccontextmanager
async def serving(folder: Path, *actors: str, insecure: bool = False) -> AsyncIterator[tuple[Gateway, LinkConfig]]:
    """A gateway at work, with version 0 published, and how to reach it."""
    keys = make_keys(folder / "keys", *actors)
    run = make_run(folder)
    made = Version(0, "00" * 32, 0)
    run.ledger.publish(made, 0, 0)
    run.publish(made)
    run.commit()
    options = {"keys": keys, "heartbeat_seconds": 0.5, "insecure": insecure}
    try:
        async with opened(run, LinkConfig(port=0, files_port=0, **options)) as gateway:
            task = asyncio.create_task(gateway.serve())
            ports = gateway._sockets
            yield gateway, LinkConfig(port=ports.port, files_port=ports.files_port, **options)
            gateway.stop()
            await task
    finally:
        run.close()


@contextlib.asynccontextmanager
async def without_keys(link: LinkConfig, name: str = "actor-0") -> AsyncIterator[ActorLink]:
    made = ActorLink(link, None, lambda: make_hello(name))
    try:
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def connecting(link: ActorLink) -> AsyncIterator[asyncio.Task]:
    """While it tries."""
    task = asyncio.create_task(link.connect())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def run_within(coroutine: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 60))


async def until(condition) -> None:
    """Until it holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - a log has nothing to await
            await asyncio.sleep(0.01)


def named(logs, event: str, module: str) -> list[dict]:
    return [entry for entry in logs if (entry["event"], entry["module"]) == (event, module)]


def test_a_link_without_keys_works_and_says_so_on_both_sides(tmp_path: Path) -> None:
    async def check() -> None:
        with capture_logs() as logs:
            async with serving(tmp_path, insecure=True) as (_, link), without_keys(link) as actor:
                await actor.connect()
                assert [ack.outcome for ack in await roll_out(actor, count=2)] == ["ok", "ok"]
                files = FileLink(link, None)
                assert (await files.fetch(0, "manifest.json", 0, 100)).error.startswith("version 0 is not there")
                await files.close()
                await told(logs, "insecure_link")
                await until(lambda: named(logs, "insecure_link", "learner.gateway.service"))
        assert named(logs, "insecure_link", "common.link")[0]["reason"].endswith("loopback alone")

    run_within(check())


def test_without_keys_a_name_is_what_the_connections_hello_said(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, insecure=True) as (gateway, link):
            async with without_keys(link, "actor-0") as one, without_keys(link, "actor-1") as two:
                await one.connect()
                await two.connect()
                grant = await two.request(LeaseRequest(count=1))
                assert isinstance(grant, LeaseGrant)
                assert gateway._run.book.leased_to("actor-1") == [grant.leases[0].lease_id]
                await one.request(Goodbye(reason="done"))
            assert [peer.name for peer in gateway.reception.peers.present] == ["actor-1"]

    run_within(check())


@pytest.mark.parametrize("insecure", ["learner", "actor"])
def test_one_side_alone_without_keys_is_named_by_both(tmp_path: Path, insecure: str) -> None:
    async def check() -> None:
        with capture_logs() as logs:
            async with serving(tmp_path, "actor-0", insecure=insecure == "learner") as (_, link):
                made = actor_link(link) if insecure == "learner" else without_keys(link)
                async with made as actor, connecting(actor) as task:
                    for module in ("learner.gateway.guard", "common.link"):
                        await until(lambda module=module: named(logs, "handshake_failed", module))
                    assert not task.done()
        reasons = {entry["reason"] for entry in logs if entry["event"] == "handshake_failed"}
        assert all("CURVE" in reason for reason in reasons), reasons

    run_within(check())


def test_an_actor_with_another_learners_key_is_named_by_both(tmp_path: Path) -> None:
    async def check() -> None:
        other = make_keys(tmp_path / "other", "actor-0")
        with capture_logs() as logs:
            async with (
                serving(tmp_path, "actor-0") as (_, link),
                actor_link(link, keys=other) as actor,
                connecting(actor),
            ):
                for module in ("learner.gateway.guard", "common.link"):
                    await until(lambda module=module: named(logs, "handshake_failed", module))
        assert "another learner.public" in named(logs, "handshake_failed", "learner.gateway.guard")[0]["reason"]
        assert "not the one in learner.public" in named(logs, "handshake_failed", "common.link")[0]["reason"]

    run_within(check())


def test_a_key_that_is_replaced_ends_its_connections_and_the_new_one_is_taken_up_by_both_without_restart(
    tmp_path: Path,
) -> None:
    """First the learner's list has the new key, then the actor's own file; the actor waits in between, and goes on."""

    async def check() -> None:
        async with serving(tmp_path, "actor-0") as (_, link):
            mine = make_keys(tmp_path / "mine", "actor-0")
            for name in ("actor-0.secret", "learner.public"):
                (mine / name).write_bytes((link.keys / name).read_bytes())
            renewed = new_keys(tmp_path / "renewed", "actor-0")
            async with actor_link(link, keys=mine) as actor:
                await actor.connect()
                with capture_logs() as logs:
                    (link.keys / "actors" / "actor-0.public").write_bytes(renewed.public)
                    await until(lambda: named(logs, "connection_cut", "learner.gateway.guard"))
                    asked = asyncio.create_task(actor.request(LeaseRequest(count=1)))
                    for module in ("common.sockets", "common.link"):
                        await until(lambda module=module: named(logs, "key_refused", module))
                    assert not asked.done()
                (cut,) = named(logs, "connection_cut", "learner.gateway.guard")
                assert cut["reason"] == "the key of actor-0 was taken off the list or replaced by another"
                (mine / "actor-0.secret").write_bytes(renewed.secret)
                assert isinstance(await asked, LeaseGrant)

    run_within(check())


def test_an_actor_whose_new_key_is_unusable_says_so_and_keeps_the_one_it_has(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, "actor-0") as (gateway, link), actor_link(link) as actor:
            await actor.connect()
            (link.keys / "actor-0.secret").chmod(0o644)
            with capture_logs() as logs:
                for connection in gateway._guard._connections.open:
                    connection.tap.cut()
                await actor.request(LeaseRequest(count=1))
            assert "lets others read" in named(logs, "keys_unreadable", "common.keys")[0]["reason"]

    run_within(check())


@pytest.mark.parametrize("host", ["10.0.0.1", "0.0.0.0", "*", "learner.example", "::"])
def test_without_keys_no_other_machine_is_spoken_to(host: str) -> None:
    words = ["--insecure", "--link.host", host]
    with pytest.raises(UsageError, match=rf"insecure is for loopback alone, not for host {host.replace('*', '.')}"):
        parse_command_line({"run": RunConfig, "link": LinkConfig}, words, usage="", flags={})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_without_keys_this_machine_is(host: str) -> None:
    words = ["--insecure", "--link.host", host]
    loaded, _ = parse_command_line({"run": RunConfig, "link": LinkConfig}, words, usage="", flags={})
    assert loaded.section("link", LinkConfig).insecure


def test_the_bound_in_all_is_not_below_that_of_a_peer() -> None:
    with pytest.raises(UsageError, match="memory_megabytes must not be below peer_megabytes"):
        parse_command_line({"link": LinkConfig}, ["--link.memory_megabytes", "170"], usage="", flags={})
