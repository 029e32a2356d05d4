"""The gateway over real sockets with CURVE: a scripted actor and a scripted trainer."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway_builders import actor_link, make_keys, make_run, roll_out

from common.config import LinkConfig
from common.messages import Heartbeat, HeartbeatReply
from common.metrics import MetricsReader
from learner.gateway.service import Gateway, opened
from learner.gateway.trainer_port import TrainerPort, Waiting


def link_to(gateway: Gateway, keys: Path) -> LinkConfig:
    ports = gateway._sockets
    return LinkConfig(port=ports.port, files_port=ports.files_port, keys=keys, heartbeat_seconds=0.5)


def train(folder: Path, steps: int) -> None:
    """A trainer that trains on whatever it gets."""
    port = TrainerPort(folder)
    port.hello(None)
    port.published(0, "00" * 32, 0, [], {})
    for step in range(1, steps + 1):
        while isinstance(groups := port.next_groups(step), Waiting):
            assert groups.reason
        ids = [member.trajectory_id for group in groups for member in group.members]
        port.published(step, f"{step:02x}" * 32, step, ids[:-1], {ids[-1]: "zero_advantage"})
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


def test_a_run_goes_from_evaluation_over_three_steps_to_evaluation(tmp_path: Path) -> None:
    async def whole() -> int:
        keys = make_keys(tmp_path / "keys", "actor-0")
        run = make_run(tmp_path, evaluation=("e_1", "e_2"))
        try:
            async with opened(run, LinkConfig(port=0, files_port=0, keys=keys)) as gateway:
                serving = asyncio.create_task(gateway.serve())
                trainer = asyncio.create_task(asyncio.to_thread(train, tmp_path, 3))
                done = await asyncio.wait_for(act(link_to(gateway, keys)), 30)
                await trainer
                gateway.stop()
                await serving
                return done
        finally:
            run.close()

    done = asyncio.run(whole())
    assert done == 2 + 3 * 2 * 2 + 2
    events = list(MetricsReader(tmp_path / "metrics.jsonl").new())
    phases = [event["name"] for event in events if event["event"] == "phase"]
    assert phases == ["evaluate_before", "train", "evaluate_after", "done"]
    evaluations = {event["label"]: event for event in events if event["event"] == "evaluation"}
    assert evaluations["before.t0"]["policy_version"] == 0
    assert evaluations["after.t0"]["policy_version"] == 3
    assert evaluations["after.t0"]["mean_reward"] == 0.5
    assert evaluations["after.t0"]["by_scenario"] == {"e": {"tgc": 0.0, "mean_reward": 0.5, "tasks": 2}}
