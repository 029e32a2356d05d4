"""An actor's process serves what it is at while it works, and nothing any more when it has left."""

import asyncio
import threading

import asking
import pytest
from scene import Worlds, many

import actor.gauges
import actor.process
from actor.config import ActorConfig, WorldConfig
from common.config import LinkConfig, RunConfig
from common.messages import Trajectory
from common.metrics_config import MetricsConfig
from common.prompt_config import PromptConfig


@pytest.fixture
def asked(scene, tmp_path, monkeypatch):
    """What an actor told after three episodes: /health, then /metrics."""
    monkeypatch.setattr(actor.gauges, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(actor.process, "provider_of", lambda _name: lambda _config: Worlds(scene))
    scene.leases = many(3)
    told = []

    def ask():
        address = asking.address_of(tmp_path, "actor-0")
        finished = ("loop_actor_episodes_total", "actor-0", "finished", "run")
        while not told or told[-1][1].get(finished) != 3:
            told.append((asking.health(address), asking.samples(address)))
        scene.finished = True

    threading.Thread(target=ask).start()
    config = ActorConfig(folder=tmp_path / "actor", episodes=4)
    sections = RunConfig(folder=tmp_path), LinkConfig(), WorldConfig(), config, PromptConfig()
    asyncio.run(actor.process.run_actor(*sections, metrics=MetricsConfig()))
    return told[-1]


def test_it_is_healthy_and_tells_what_became_of_its_leases(asked, scene, tmp_path):
    (status, said), found = asked
    assert (status, said["process"]) == (200, "actor")
    assert found["loop_actor_worlds_opened_total", "actor-0", "run"] == 3
    assert found["loop_actor_policy_version", "actor-0", "run"] == 0
    assert found["loop_actor_disk_free_bytes", "actor-0", "run"] > 0
    assert len(scene.of(Trajectory)) == 3
    assert list((tmp_path / "exporters").iterdir()) == []
