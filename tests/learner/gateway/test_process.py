"""The gateway as a process: killed in mid-run, stopped by a signal, refused a port."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from gateway_builders import TASKS, actor_link, make_keys, make_trajectory

from common.config import LinkConfig
from common.link import ActorLink
from common.messages import Ack, Heartbeat, LeaseGrant, LeaseRequest
from learner.gateway import books
from learner.gateway.draw import RolloutConfig, TaskDraw
from learner.gateway.ledger import open_database
from learner.gateway.trainer_port import Resume, TrainerPort, Waiting

ROOT = Path(__file__).resolve().parents[3]


class Process:
    """A gateway process on a run folder."""

    def __init__(self, folder: Path, **link: object) -> None:
        self.folder = folder
        (folder / "train.txt").write_text("\n".join(TASKS))
        self.link_options = {"port": 0, "files_port": 0, "keys": str(folder / "keys"), "heartbeat_seconds": 0.2, **link}
        self.configure()
        self.process: subprocess.Popen[str] | None = None

    def configure(self, **rollout: object) -> None:
        """Write its config file; before `start`."""
        options = {"train_tasks": str(self.folder / "train.txt"), "steps": 50, "groups_per_step": 2, "group_size": 2}
        tree = {
            "run": {"folder": str(self.folder)},
            "link": self.link_options,
            "learner": {"rollout": {**options, "staleness_bound": 50, **rollout}},
        }
        (self.folder / "config.yaml").write_text(yaml.safe_dump(tree))

    def start(self) -> subprocess.Popen[str]:
        arguments = ["-m", "learner.gateway.service", "--config", str(self.folder / "config.yaml")]
        self.process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        return self.process

    def link(self) -> LinkConfig:
        address = self.folder / "gateway.json"
        while not address.exists():
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.01)
        where = json.loads(address.read_text())
        ports = {name: where[name] for name in ("port", "files_port")}
        return LinkConfig(**ports, keys=self.folder / "keys", heartbeat_seconds=0.2)

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.process = None


@pytest.fixture
def gateway(tmp_path: Path):
    make_keys(tmp_path / "keys", "actor-0")
    made = Process(tmp_path)
    yield made
    made.end()


async def act(link: ActorLink, acknowledged: dict[str, str], stop: asyncio.Event) -> None:
    while not stop.is_set():
        grant = await link.request(LeaseRequest(count=2))
        assert isinstance(grant, LeaseGrant)
        if not grant.leases:
            # what was granted in an answer that a kill swallowed is held by nobody, and only a heartbeat says so
            await link.request(Heartbeat(policy_version=0, episodes=0, tokens_per_second=0.0, spooled=0))
            await asyncio.sleep(0.01)
        for lease in grant.leases:
            ack = await link.request(make_trajectory(lease))
            assert isinstance(ack, Ack)
            acknowledged[lease.lease_id] = ack.outcome


def train(folder: Path, kills: list[asyncio.Event], loop: asyncio.AbstractEventLoop, steps: int) -> list[str]:
    """Trains a step at a time; what it trained on, in order. Half-way through, the gateway is killed."""
    port, trained = TrainerPort(folder), []
    port.hello(None)
    port.published(0, "00" * 32, 0, [], {})
    for step in range(1, steps + 1):
        while isinstance(groups := port.next_groups(step), Waiting):
            pass
        if step % 4 == 2:
            loop.call_soon_threadsafe(kills[step // 4].set)
        ids = [member.trajectory_id for group in groups for member in group.members]
        trained += ids
        port.published(step, f"{step:02x}" * 32, step, ids, {})
    port.hello(Resume(policy_version=steps, step=steps, consumed=tuple(ids)))
    port.close()
    return trained


@pytest.mark.parametrize(
    "options", [{}, {"staleness_bound": 1, "refill_most": 1, "retire_after": 1}], ids=["plain", "refill-and-retire"]
)
def test_nothing_acknowledged_is_lost_and_nothing_trained_twice_when_the_gateway_is_killed(
    gateway, monkeypatch, options
):
    gateway.configure(**options)
    monkeypatch.setattr("learner.gateway.trainer_port.ANSWER_WITHIN", 0.5)
    acknowledged: dict[str, str] = {}

    async def whole() -> list[str]:
        gateway.start()
        stop, kills = asyncio.Event(), [asyncio.Event() for _ in range(3)]
        async with actor_link(gateway.link()) as link:
            await link.connect()
            acting = asyncio.create_task(act(link, acknowledged, stop))
            loop = asyncio.get_running_loop()
            training = asyncio.create_task(asyncio.to_thread(train, gateway.folder, kills, loop, 12))
            for kill in kills:
                await kill.wait()
                gateway.end()
                gateway.start()
            trained = await training
            stop.set()
            await acting
            return trained

    trained = asyncio.run(asyncio.wait_for(whole(), 60))
    gateway.end()
    assert len(trained) == len(set(trained)) == 12 * 2 * 2
    assert set(acknowledged.values()) <= {"ok", "duplicate"}
    with open_database(gateway.folder / "ledger.sqlite", read_only=True) as database:
        held = {row[0] for row in database.execute("SELECT trajectory_id FROM trajectories")}
        states = dict(database.execute("SELECT lease_id, state FROM leases"))
        drawn = database.execute("SELECT number, task_id FROM groups ORDER BY number").fetchall()
        found = books.books(database)
    database.close()
    assert set(acknowledged) <= held
    assert {states[lease_id] for lease_id in trained} == {"trained"}
    assert found.balanced, found
    assert found.trained == len(trained)
    draw = TaskDraw(TASKS, 1, RolloutConfig())
    assert drawn == [(number, draw.task(number)) for number, _ in drawn], "each task once an epoch, in its order"
    assert options or drawn[-1][0] + 1 == len(drawn), "left-out tasks leave gaps, and nothing else does"
    assert found.dropped.get("no_signal", 0) >= 2 * 12 * bool(options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(gateway, number):
    process = gateway.start()
    gateway.link()
    process.send_signal(number)
    assert process.wait(10) == 0
    assert books.main([str(gateway.folder)]) == 0


def test_a_port_in_use_is_one_line_and_exit_2(gateway, tmp_path):
    gateway.start()
    taken = gateway.link().port
    other = tmp_path / "other"
    other.mkdir()
    make_keys(other / "keys")
    second = Process(other, port=taken).start()
    _, errors = second.communicate(timeout=30)
    assert second.returncode == 2
    wanted = f"gateway: 127.0.0.1:{taken}: cannot listen: another process listens there already; choose another with"
    assert errors.splitlines()[-1].startswith(wanted)
    assert not (other / "gateway.json").exists()


def test_a_second_gateway_on_a_run_is_refused(gateway):
    gateway.start()
    gateway.link()
    arguments = [sys.executable, "-m", "learner.gateway.service", "--config", str(gateway.folder / "config.yaml")]
    second = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 2
    assert second.stderr.splitlines()[-1].endswith("another gateway is at work on this run; stop it")


def test_it_never_imports_torch():
    code = "import sys, learner.gateway.service; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
