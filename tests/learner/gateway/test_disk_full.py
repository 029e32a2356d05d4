"""A disk that takes no more: nothing is told, nothing half-changed stays, the gateway goes on when there is room."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

from gateway_builders import actor_link, make_keys, make_run, roll_out, the_books
from link_ends import told
from structlog.testing import capture_logs

from common.config import LinkConfig
from common.messages import Heartbeat
from learner.gateway.ledger import Ledger
from learner.gateway.room import Room
from learner.gateway.service import Gateway, opened
from learner.gateway.trainer_port import TrainerPort


def link_to(gateway: Gateway, keys: Path) -> LinkConfig:
    ports = gateway._sockets
    return LinkConfig(port=ports.port, files_port=ports.files_port, keys=keys, heartbeat_seconds=0.1)


def publish_first(folder: Path) -> None:
    port = TrainerPort(folder)
    port.hello(None)
    port.published(0, "00" * 32, 0, [], {})
    port.close()


async def until(condition) -> None:
    while not condition():  # noqa: ASYNC110 - plain lists have nothing to await
        await asyncio.sleep(0.01)


def test_a_full_disk_is_waited_out_and_costs_nothing_that_was_acknowledged(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("common.link.backoff", lambda: itertools.repeat(0.05))
    keys = make_keys(tmp_path / "keys", "actor-0")
    run = make_run(tmp_path, groups_per_step=99, steps=99)
    database = run.ledger._database
    acknowledged = []
    granted = []

    async def act(link) -> None:
        link.on_credit = granted.append
        while True:
            acknowledged.extend(await roll_out(link, count=8))
            await link.request(Heartbeat(policy_version=0, episodes=0, tokens_per_second=0.0, spooled=0))

    async def check() -> None:
        async with opened(run, LinkConfig(port=0, files_port=0, keys=keys)) as gateway:
            task = asyncio.create_task(gateway.serve())
            await asyncio.to_thread(publish_first, tmp_path)
            async with actor_link(link_to(gateway, keys)) as link:
                await link.connect()
                # as a disk that has little room; what it lacks comes back when the limit is lifted
                monkeypatch.setattr(Room, "free", property(lambda _: 0 if limited() else 1 << 40))
                database.execute(f"PRAGMA max_page_count={database.execute('PRAGMA page_count').fetchone()[0] + 20}")
                acting = asyncio.create_task(act(link))
                await told(logs, "disk_full")
                before = len(acknowledged)
                await until(lambda: 0 in granted)
                assert not task.done()
                assert the_books(tmp_path).balanced
                database.execute("PRAGMA max_page_count=1000000")
                await told(logs, "disk_has_room")
                await until(lambda: len(acknowledged) >= before + 16)
                acting.cancel()
                gateway.stop()
                await task

    def limited() -> bool:
        return database.execute("PRAGMA max_page_count").fetchone()[0] < 1000000

    with capture_logs() as logs:
        asyncio.run(asyncio.wait_for(check(), 60))
    run.close()
    assert {ack.outcome for ack in acknowledged} <= {"ok", "duplicate"}
    assert the_books(tmp_path).balanced
    again = Ledger(tmp_path / "ledger.sqlite")
    assert len(again.frames(ack.trajectory_id for ack in acknowledged)) == len(acknowledged) > 16
    again.close()
