"""What real processes of both sides tell systemd over a real socket: when they are ready, hang, and leave."""

import json
import os
import signal

import pytest
from fleet import Fleet
from listening import Listener


@pytest.fixture
def listener(tmp_path):
    made = Listener(tmp_path / "notify")
    yield made
    made.close()


def test_the_learner_is_ready_with_both_children_and_gives_no_sign_of_life_while_its_gateway_hangs(tmp_path, listener):
    home = tmp_path / "fleet"
    home.mkdir()
    environment = {"learner": listener.environment(watchdog_seconds=8.0)}
    with Fleet(home, actors=("actor-0",), environment=environment) as fleet:
        fleet.start("learner")
        ready = listener.until("READY=1")
        assert (fleet.run / "checkpoints" / "v000000").is_dir()
        gateway = json.loads((fleet.run / "gateway.json").read_text())["pid"]
        listener.until("WATCHDOG=1", since=ready)
        os.kill(gateway, signal.SIGSTOP)
        try:
            silent = listener.until("STATUS=gateway gives no sign of life", since=ready)
            fleet.until_logged("learner", "child_silent")
        finally:
            os.kill(gateway, signal.SIGCONT)
        fleet.until_logged("learner", "child_heard_again")
        alive = listener.until("WATCHDOG=1", since=silent)
        said = [line for line in listener.lines()[silent + 1 : alive] if line.startswith("STATUS=")]
        assert said  # first it is no longer silent, then it is alive
        assert not said[-1].startswith("STATUS=gateway gives no sign")
        fleet.start("actor-0")
        fleet.until_steps(1)
        listener.until("STATUS=gateway: ", since=alive)
        fleet._signal(signal.SIGTERM, "learner")
        assert fleet.ended("learner") == 0
        assert listener.lines()[-1] == "STOPPING=1"


def test_an_actor_is_ready_after_handshake_and_engine_and_asks_for_time_until_then(tmp_path, listener):
    home, engine = tmp_path / "fleet", tmp_path / "engine"
    home.mkdir()
    environment = {"actor-0": listener.environment(watchdog_seconds=8.0)}
    light = {"engine_starts_after": str(engine)}
    with Fleet(home, actors=("actor-0",), light=light, environment=environment) as fleet:
        fleet.start("gateway", "trainer", "actor-0")
        listener.until("EXTEND_TIMEOUT_USEC=")
        listener.until("STATUS=waits for vLLM's engine to start")
        assert fleet.is_welcomed("actor-0")
        assert "READY=1" not in listener.lines()
        engine.touch()
        ready = listener.until("READY=1")
        listener.until("WATCHDOG=1", since=ready)
        listener.until("STATUS=rolls out", since=ready)
        fleet._signal(signal.SIGTERM, "actor-0")
        assert fleet.ended("actor-0") == 0
        assert listener.lines()[-1] == "STOPPING=1"
        assert listener.lines()[-2].startswith("STATUS=leaves")
