"""A straggler from end to end over real sockets: the gateway cuts it, its actor's episode ends, its length is told.

Heartbeats are ten minutes apart here, so that nothing but the gateway's own word can have ended it.
"""

import asyncio

import pytest
from gateway_builders import begun_run, make_keys
from scene import make_worker, put_in_place

import actor.worker
from common.config import LinkConfig
from common.keys import actor_keys
from common.link import ActorLink
from learner.gateway.service import opened
from learner.gateway.trainer_desk import TrainerDesk
from learner.gateway.trainer_port import Groups, NextGroups


@pytest.fixture
def scene(monkeypatch, tmp_path):
    made = put_in_place(monkeypatch, tmp_path)
    monkeypatch.setattr("scene.DIGEST", f"{0:064x}")  # the first version is what the actor has
    monkeypatch.setattr(actor.worker, "ActorLink", ActorLink)
    monkeypatch.setattr(actor.worker, "actor_keys", actor_keys)
    return made


async def until(condition, worker):
    async with asyncio.timeout(30):
        while not condition():
            assert not worker.done(), worker
            await asyncio.sleep(0.01)


def test_a_cut_episode_ends_without_a_heartbeat_and_its_slot_is_free(scene, tmp_path, monkeypatch):
    options = {"groups_per_step": 1, "group_size": 3, "straggler_share": 0.5, "straggler_members": 2}
    begun = []

    async def generate():
        begun.append(len(begun))
        if len(begun) == 3:
            await asyncio.Event().wait()

    scene.on_generate = generate

    async def check():
        run = begun_run(tmp_path / "run", train_tasks=("pay_1",), **options)
        keys = make_keys(tmp_path / "keys", "actor-0")
        async with opened(run, LinkConfig(port=0, files_port=0, keys=keys, heartbeat_seconds=600.0)) as gateway:
            ports = gateway._sockets
            link = LinkConfig(port=ports.port, files_port=ports.files_port, keys=keys, heartbeat_seconds=600.0)
            monkeypatch.setattr("scene.LinkConfig", lambda: link)
            worker = make_worker(scene, tmp_path, episodes=3)
            serving = asyncio.create_task(gateway.serve())
            running = asyncio.create_task(worker.run())
            await until(lambda: run.ledger.arrived() == 2 and len(begun) == 3, running)
            assert list(worker._episodes) == run.book.leased_to("actor-0")
            answer = gateway._durably(lambda: TrainerDesk(run).answer(NextGroups(step=1))[0])
            assert isinstance(answer, Groups)
            await until(lambda: not worker._episodes, running)
            assert worker._leases.running == 0
            await until(lambda: run.ledger.straggler_figures(1)["cut_of_known_length"] == 1, running)
            worker.stop("over")
            await running
            gateway.stop()
            await serving
        assert run.ledger.straggler_figures(1)["mean_tokens_cut"] == 3.0, "its opening"
        run.close()

    asyncio.run(check())
