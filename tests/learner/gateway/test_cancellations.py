"""What is wanted no longer is said at once, over real sockets, to the actor that holds it; a heartbeat says it too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from gateway_builders import actor_link, begun_run, make_keys, make_trajectory, publish_step

from common.config import LinkConfig
from common.link import ActorLink
from common.messages import Heartbeat, HeartbeatReply, Lease, LeaseGrant, LeaseRequest
from learner.gateway.run_state import RunState
from learner.gateway.service import Gateway, opened
from learner.gateway.trainer_desk import TrainerDesk
from learner.gateway.trainer_port import Groups, NextGroups


@contextlib.asynccontextmanager
async def served(run: RunState, *actors: str) -> AsyncIterator[tuple[Gateway, LinkConfig]]:
    keys = make_keys(run.folder / "keys", *actors)
    async with opened(run, LinkConfig(port=0, files_port=0, keys=keys)) as gateway:
        ports = gateway._sockets
        link = LinkConfig(port=ports.port, files_port=ports.files_port, keys=keys, heartbeat_seconds=600.0)
        serving = asyncio.create_task(gateway.serve())
        try:
            yield gateway, link
        finally:
            gateway.stop()
            await serving


async def leased(link: ActorLink, count: int) -> list[Lease]:
    await link.connect()
    grant = await link.request(LeaseRequest(count=count))
    assert isinstance(grant, LeaseGrant)
    return list(grant.leases)


def heard(link: ActorLink) -> asyncio.Queue[tuple[str, ...]]:
    told: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()
    link.on_cancelled = lambda lease_ids: told.put_nowait(tuple(lease_ids))
    return told


def test_a_straggler_is_told_to_stop_without_a_heartbeat_and_nobody_else_is(tmp_path):
    options = {"groups_per_step": 1, "group_size": 3, "straggler_share": 0.5, "straggler_members": 2}

    async def check() -> None:
        run = begun_run(tmp_path, **options)
        async with (
            served(run, "actor-0", "actor-1") as (gateway, config),
            actor_link(config, "actor-0") as quick,
            actor_link(config, "actor-1") as slow,
        ):
            told, others = heard(slow), heard(quick)
            own, late = await leased(quick, 2), await leased(slow, 1)
            for lease in own:
                await quick.request(make_trajectory(lease, actor="actor-0", version=0))
            answer = gateway._durably(lambda: TrainerDesk(run).answer(NextGroups(step=1))[0])
            assert isinstance(answer, Groups)
            async with asyncio.timeout(20):
                assert await told.get() == (late[0].lease_id,)
            held = Heartbeat(
                policy_version=0,
                episodes=1,
                lease_ids=(late[0].lease_id,),
                tokens_per_second=1.0,
                spooled=0,
                waiting_for="",
            )
            reply = await slow.request(held)
            assert isinstance(reply, HeartbeatReply)
            assert reply.cancelled == (late[0].lease_id,), "the truth is in the heartbeat's reply"
            assert others.empty()
        run.close()

    asyncio.run(check())


def test_what_is_carried_over_is_not_told_to_stop_and_is_trained_on_when_it_is_whole(tmp_path):
    options = {"groups_per_step": 1, "group_size": 3, "straggler_share": 0.5, "straggler_members": 2, "steps": 9}
    options |= {"stragglers": "carry", "staleness_bound": 1}

    async def check() -> None:
        run = begun_run(tmp_path, **options)
        async with (
            served(run, "actor-0", "actor-1") as (gateway, config),
            actor_link(config, "actor-0") as quick,
            actor_link(config, "actor-1") as slow,
        ):
            told = heard(slow)

            def asked(step: int) -> list[str] | None:
                answer = gateway._durably(lambda: TrainerDesk(run).answer(NextGroups(step=step))[0])
                return [group.group_id for group in answer.groups] if isinstance(answer, Groups) else None

            async def done(link: ActorLink, leases: list[Lease], actor: str) -> None:
                for lease in leases:
                    await link.request(make_trajectory(lease, actor=actor, version=lease.minimum_version))

            (late,) = await leased(slow, 1)
            await done(quick, (await leased(quick, 4))[:2], "actor-0")
            assert asked(1) is None
            further = await quick.request(LeaseRequest(count=4))
            assert isinstance(further, LeaseGrant)
            await done(quick, list(further.leases), "actor-0")
            for lease_id in run.book.leased_to("actor-0"):
                await done(quick, [run.book.find(lease_id).lease], "actor-0")
            (first,) = asked(1)
            assert first != late.group_id
            publish_step(run, 1, [r.lease_id for group in run.book.in_state("handed") for r in group.survivors])
            await done(slow, [late], "actor-1")
            assert asked(2) == [late.group_id]
            assert told.empty()
        run.close()

    asyncio.run(check())


def test_the_end_of_training_is_told_at_once(tmp_path):
    async def check() -> None:
        run = begun_run(tmp_path, groups_per_step=1, group_size=2, steps=1)
        async with served(run, "actor-0") as (gateway, config), actor_link(config, "actor-0") as link:
            told = heard(link)
            leases = await leased(link, 2)
            publish_step(run, 1)
            gateway._durably(lambda: run.course.end_training() or True)
            async with asyncio.timeout(20):
                assert sorted(await told.get()) == sorted(lease.lease_id for lease in leases)
        run.close()

    asyncio.run(check())


def test_what_the_disk_did_not_take_is_told_to_nobody(tmp_path):
    run = begun_run(tmp_path, groups_per_step=1, group_size=2)
    leases, _ = run.book.grant("actor-0", 2, now=0.0)
    run.commit()
    run.cancelled.clear()
    run.course.end_training()
    run._note_cancelled(run.book.take_changes()[1])
    assert sorted(run.cancelled["actor-0"]) == sorted(lease.lease_id for lease in leases)
    run.go_back(now=0.0)
    assert run.cancelled == {}
    run.close()
