"""The gateway over real sockets with CURVE: a scripted actor and a scripted trainer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

import pytest
from gateway_builders import actor_link, make_hello, make_keys, make_run, make_trajectory, roll_out
from structlog.testing import capture_logs

from common.checkpoint import Manifest, Probe, publish
from common.config import LinkConfig
from common.errors import RunError
from common.file_link import FileLink
from common.keys import actor_keys
from common.link import ActorLink
from common.messages import Heartbeat, HeartbeatReply, LeaseGrant, LeaseRequest
from common.metrics import MetricsReader
from common.wire import decode, encode
from learner.gateway.books import books
from learner.gateway.ledger import Version, open_database
from learner.gateway.service import Gateway, opened
from learner.gateway.trainer_port import TrainerPort, Waiting


def link_to(gateway: Gateway, keys: Path) -> LinkConfig:
    ports = gateway._sockets
    return LinkConfig(port=ports.port, files_port=ports.files_port, keys=keys, heartbeat_seconds=0.5)


def train(folder: Path, steps: int, signal: bool = True) -> None:
    """A trainer that trains on whatever it gets, or finds no signal in any of it."""
    port = TrainerPort(folder)
    port.hello(None)
    port.published(0, "00" * 32, 0, [], {})
    for step in range(1, steps + 1):
        while isinstance(groups := port.next_groups(step), Waiting):
            assert groups.reason
        ids = [member.trajectory_id for group in groups for member in group.members]
        trained = len(ids) - 1 if signal else 0
        port.published(step, f"{step:02x}" * 32, step, ids[:trained], dict.fromkeys(ids[trained:], "no_signal"))
    port.finished()
    port.close()


async def act(link_config: LinkConfig) -> int:
    """An actor that rolls out whatever it gets until the run is over; its trajectories that were acknowledged."""
    done = 0
    async with actor_link(link_config) as link:
        await link.connect()
        while True:
            acks = await roll_out(link, count=4)
            assert {ack.outcome for ack in acks} <= {"ok"}
            done += len(acks)
            reply = await link.request(
                Heartbeat(policy_version=0, episodes=0, tokens_per_second=1.0, spooled=0, waiting_for="leases")
            )
            assert isinstance(reply, HeartbeatReply)
            if reply.finished:
                return done


async def whole_run(folder: Path, signal: bool = True, **changes: object) -> int:
    """A run of three steps from begin to end; its trajectories that were acknowledged."""
    keys = make_keys(folder / "keys", "actor-0")
    run = make_run(folder, evaluation=("e_1", "e_2"), **changes)
    try:
        async with opened(run, LinkConfig(port=0, files_port=0, keys=keys)) as gateway:
            serving = asyncio.create_task(gateway.serve())
            trainer = asyncio.create_task(asyncio.to_thread(train, folder, 3, signal))
            done = await asyncio.wait_for(act(link_to(gateway, keys)), 30)
            await trainer
            gateway.stop()
            await serving
            return done
    finally:
        run.close()


def test_a_run_goes_from_evaluation_over_three_steps_to_evaluation(tmp_path: Path) -> None:
    done = asyncio.run(whole_run(tmp_path))
    assert done == 2 + 3 * 2 * 2 + 2
    events = list(MetricsReader(tmp_path / "metrics.jsonl").new())
    phases = [event["name"] for event in events if event["event"] == "phase"]
    assert phases == ["evaluate_before", "train", "evaluate_after", "done"]
    evaluations = {event["label"]: event for event in events if event["event"] == "evaluation"}
    assert evaluations["before.t0"]["policy_version"] == 0
    assert evaluations["after.t0"]["policy_version"] == 3
    assert evaluations["after.t0"]["mean_reward"] == 0.5
    (scenario,) = evaluations["after.t0"]["by_scenario"].items()
    assert (scenario[0], scenario[1]["tgc"], scenario[1]["mean_reward"], scenario[1]["tasks"]) == ("e", 0.0, 0.5, 2)


def test_a_run_whose_groups_never_have_signal_ends_all_the_same(tmp_path: Path) -> None:
    """Each step replaces as many as it may, leaves their tasks out while others are left, and goes on."""
    horizon = {"horizon_start": 3, "horizon_steps": 2}
    done = asyncio.run(whole_run(tmp_path, signal=False, refill_most=2, retire_after=1, **horizon))
    assert done == 2 + 3 * (2 + 2) * 2 + 2
    with contextlib.closing(open_database(tmp_path / "ledger.sqlite", read_only=True)) as database:
        found = books(database)
    assert (found.balanced, found.evaluated, found.dropped) == (True, 4, {"no_signal": 3 * 4 * 2})
    lines = [event for event in MetricsReader(tmp_path / "metrics.jsonl").new() if event["event"] == "draws"]
    assert [(line["step"], line["groups"], line["refilled"], line["max_turns"]) for line in lines] == [
        (1, 2, 2, 5),
        (2, 2, 2, 7),
        (3, 2, 2, 7),
    ]
    assert lines[-1]["without_signal_in_sum"] == lines[-1]["refilled_in_sum"] == 6


@contextlib.asynccontextmanager
async def serving(folder: Path, *actors: str, **changes: object) -> AsyncIterator[tuple[Gateway, LinkConfig, Path]]:
    """A gateway at work, with version 0 published."""
    keys = make_keys(folder / "keys", *actors)
    run = make_run(folder, **changes)
    try:
        async with opened(run, LinkConfig(port=0, files_port=0, keys=keys, heartbeat_seconds=0.5)) as gateway:
            task = asyncio.create_task(gateway.serve())
            await asyncio.to_thread(publish_first, folder)
            yield gateway, link_to(gateway, keys), keys
            gateway.stop()
            await task
    finally:
        run.close()


def publish_first(folder: Path) -> frozenset[int]:
    port = TrainerPort(folder)
    port.hello(None)
    in_use = port.published(0, "00" * 32, 0, [], {})
    port.close()
    return in_use


def beat(*lease_ids: str) -> Heartbeat:
    return Heartbeat(policy_version=0, episodes=0, lease_ids=lease_ids, tokens_per_second=0.0, spooled=0)


def run_within(coroutine: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


def test_a_second_actor_of_one_name_waits_until_the_first_is_gone(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, "actor-0") as (_, link, _), actor_link(link, instance="one") as first:
            await first.connect()
            async with actor_link(link, instance="two") as second:
                with capture_logs() as logs:
                    connecting = asyncio.create_task(second.connect())
                    while not any(entry["event"] == "refused_for_now" for entry in logs):
                        await first.request(beat())
                reasons = {entry["reason"] for entry in logs if entry["event"] == "refused_for_now"}
                assert {reason.partition(" is alive")[0] for reason in reasons} == {"another actor named actor-0"}
                assert not connecting.done()
                await first.close()  # as when its process is killed: the connection is gone
                await connecting

    run_within(check())


def test_the_trainer_hears_which_versions_actors_use(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, "actor-0") as (_, link, keys), actor_link(link) as actor:
            await actor.connect()
            assert await asyncio.to_thread(publish_first, tmp_path) == frozenset()
            await actor.request(beat().model_copy(update={"policy_version": 7}))
            files = FileLink(link, actor_keys(keys, "actor-0"))
            assert (await files.fetch(4, "manifest.json", 0, 10)).error
            await files.close()
            assert await asyncio.to_thread(publish_first, tmp_path) == {4, 7}

    run_within(check())


def test_a_key_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, "actor-0") as (gateway, link, keys):
            other = make_keys(tmp_path / "other", "actor-0")
            (other / "learner.public").write_bytes((keys / "learner.public").read_bytes())
            async with actor_link(link, keys=other) as stranger:
                with pytest.raises(RunError, match="does not list the key of actor-0"):
                    await stranger.connect()
            assert list(gateway.reception.peers.present) == []

    run_within(check())


def test_an_actor_may_not_use_anothers_name(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, "actor-0", "actor-1") as (_, link, keys):
            made = ActorLink(link, actor_keys(keys, "actor-1"), lambda: make_hello("actor-0"))
            with pytest.raises(RunError, match="calls itself actor-0, but its key is actor-1's"):
                await made.connect()
            await made.close()

    run_within(check())


def test_a_killed_actors_leases_go_to_its_successor_at_once(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, "actor-0", lease_seconds=1e6) as (_, link, _):
            async with actor_link(link, instance="one") as first:
                grant = await first.request(LeaseRequest(count=4))
                assert isinstance(grant, LeaseGrant)
            async with actor_link(link, instance="two") as second:
                await second.request(beat())
                again = await second.request(LeaseRequest(count=4))
                assert isinstance(again, LeaseGrant)
            places = {(lease.group_id, lease.member) for lease in grant.leases}
            assert {(lease.group_id, lease.member) for lease in again.leases} == places
            assert {lease.epoch for lease in again.leases} == {1}

    run_within(check())


def test_every_actor_hears_of_a_new_version(tmp_path: Path) -> None:
    async def check() -> None:
        async with (
            serving(tmp_path, "actor-0", "actor-1") as (gateway, link, _),
            actor_link(link, "actor-0") as first,
            actor_link(link, "actor-1") as second,
        ):
            await first.connect()
            await second.connect()
            version = Version(1, "01" * 32, 1)
            gateway._run.ledger.publish(version, 0, 0)
            gateway._durably(lambda: gateway._run.publish(version))
            for actor in (first, second):
                announced = aiter(actor.announcements())
                assert [(await anext(announced)).policy_version for _ in range(2)] == [0, 1]
                assert actor.current == (1, "01" * 32)

    run_within(check())


def test_checkpoint_files_come_over_the_files_port(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    manifest = Manifest(
        run_id="r", policy_version=0, kind="full", step=0, files={}, probe=Probe(tokens=(1, 2), log_probs=(-1.0,))
    )
    publish(tmp_path / "checkpoints", manifest, lambda folder: (folder / "model.safetensors").write_bytes(content))

    async def check() -> None:
        async with serving(tmp_path, "actor-0") as (_, link, keys):
            files = FileLink(link, actor_keys(keys, "actor-0"))
            told = await files.fetch(0, "manifest.json", 0, 1 << 20)
            entry = Manifest.model_validate_json(told.data).files["model.safetensors"]
            await files.fetch_file(0, "model.safetensors", entry.size, tmp_path / "got")
            with pytest.raises(RunError, match="version 7 is not there or no longer kept"):
                await files.fetch_file(7, "model.safetensors", 5, tmp_path / "none")
            await files.close()

    run_within(check())
    assert (tmp_path / "got").read_bytes() == content


def test_a_stalled_trainer_stalls_no_actor(tmp_path: Path) -> None:
    """A trainer whose question is parked, and one that asks nothing at all."""

    async def check() -> None:
        async with serving(tmp_path, "actor-0", groups_per_step=9) as (_, link, _), actor_link(link) as actor:
            await actor.connect()
            port = TrainerPort(tmp_path)
            parked = asyncio.create_task(asyncio.to_thread(port.next_groups, 1))
            answered = 0
            while not parked.done():
                assert isinstance(await actor.request(beat()), HeartbeatReply)
                answered += 1
            assert answered > 10
            assert "9 groups" in (await parked).reason
            port.close()

    run_within(check())


def test_a_compressed_trajectory_is_journalled_as_it_came(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, "actor-0") as (gateway, link, _), actor_link(link) as actor:
            grant = await actor.request(LeaseRequest(count=1))
            trajectory = make_trajectory(grant.leases[0], prompt=1000)
            frame = encode(trajectory, compress=True)
            assert len(frame) < len(encode(trajectory)) / 2
            assert (await actor.request(frame)).outcome == "ok"
            assert gateway._run.ledger.frames([trajectory.trajectory_id]) == [frame]
            assert decode(frame) == trajectory

    run_within(check())
