"""What the learner's parent tells systemd of its children, which are real processes that speak as they are told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from listening import Listener
from structlog.testing import capture_logs

from common.notify import Notifier
from learner.vigil import Vigil

ROOT = Path(__file__).resolve().parents[2]
SPEAKER = """
import sys
from common.notify import Notifier
now = [0.0]
notifier = Notifier(clock=lambda: now[0])
for line in sys.stdin:
    name, _, value = line.strip().partition(" ")
    if name == "alive":
        now[0] += 1000.0
    getattr(notifier, name)(*([float(value)] if name == "extend" else [value] if value else []))
    print("said", flush=True)
"""


class Child:
    """A process that says what the test wants it to."""

    def __init__(self, environment) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SPEAKER],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, *lines):
        for line in lines:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            assert self.process.stdout.readline() == "said\n"

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Scene:
    """A vigil over a gateway and a trainer, on a clock that stands still but for `at`; systemd waits for 20 seconds."""

    def __init__(self, listener, monkeypatch) -> None:
        self.listener, self.now = listener, 0.0
        for name, value in listener.environment(watchdog_seconds=20.0).items():
            monkeypatch.setenv(name, value)
        self.vigil = Vigil(Notifier(clock=lambda: self.now), clock=lambda: self.now)
        self.gateway, self.trainer = Child(self.vigil.environment()), Child(self.vigil.environment())
        self.vigil.watch("gateway", self.gateway.process.pid)
        self.vigil.watch("trainer", self.trainer.process.pid)

    def at(self, seconds):
        """What systemd hears at a look then."""
        self.now = seconds
        self.vigil.look()
        return [line for message in self.listener.take() for line in message]

    def close(self):
        self.gateway.end()
        self.trainer.end()
        self.vigil.close()


@pytest.fixture
def scene(tmp_path, monkeypatch):
    listener = Listener(tmp_path / "notify")
    made = Scene(listener, monkeypatch)
    yield made
    made.close()
    listener.close()


def test_the_learner_is_ready_when_gateway_and_trainer_are(scene):
    scene.gateway.say("ready")
    assert "READY=1" not in scene.at(1.0)
    scene.trainer.say("ready")
    assert "READY=1" in scene.at(2.0)


def test_what_a_loading_trainer_asks_for_is_passed_on_once(scene):
    scene.trainer.say("extend 100")
    assert "EXTEND_TIMEOUT_USEC=100000000" in scene.at(1.0)
    assert scene.at(2.0) == []
    scene.trainer.say("extend 300")
    assert scene.at(3.0) == ["EXTEND_TIMEOUT_USEC=300000000"]


def test_the_status_is_that_of_both(scene):
    scene.gateway.say("status train with 2 actors")
    scene.trainer.say("status step 4 waits for 2 groups")
    assert "STATUS=gateway: train with 2 actors; trainer: step 4 waits for 2 groups" in scene.at(1.0)


@pytest.mark.parametrize("stuck", ["gateway", "trainer"])
def test_signs_of_life_stop_while_one_child_gives_none_and_the_log_names_it(scene, stuck):
    other = {"gateway": scene.trainer, "trainer": scene.gateway}[stuck]
    scene.gateway.say("ready")
    scene.trainer.say("ready", "status step 4: trains on 12 groups")
    assert "WATCHDOG=1" in scene.at(0.0)
    with capture_logs() as logged:
        other.say("alive")
        assert "WATCHDOG=1" in scene.at(6.0)  # half of systemd's time is the patience with a child
        for second in (11.0, 20.0, 100.0):
            other.say("alive")
            assert "WATCHDOG=1" not in scene.at(second)
    status = [line for line in scene.listener.lines() if line.startswith("STATUS=")][-1]
    assert status.startswith(f"STATUS={stuck} gives no sign of life")
    assert [(entry["event"], entry["name"]) for entry in logged] == [("child_silent", stuck)]
    scene.gateway.say("alive")
    scene.trainer.say("alive")
    assert "WATCHDOG=1" in scene.at(101.0)


def test_a_child_that_said_it_is_busy_is_waited_for(scene):
    scene.gateway.say("ready")
    scene.trainer.say("ready", "extend 600")
    scene.at(0.0)
    scene.gateway.say("alive")
    assert "WATCHDOG=1" in scene.at(500.0)
    scene.gateway.say("alive")
    assert "WATCHDOG=1" not in scene.at(601.0)


def test_a_child_that_ended_well_is_expected_no_more(scene):
    scene.gateway.say("ready")
    scene.trainer.say("ready")
    scene.at(0.0)
    scene.vigil.forget("trainer")
    scene.gateway.say("alive")
    assert "WATCHDOG=1" in scene.at(50.0)


def test_a_stop_is_told(scene):
    scene.vigil.stopping()
    assert scene.listener.lines() == ["STOPPING=1"]


def test_without_systemd_children_are_told_nothing(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    vigil = Vigil(Notifier())
    vigil.watch("gateway", os.getpid())
    vigil.look()
    vigil.close()
    assert vigil.environment() == {}
