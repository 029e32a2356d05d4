"""Learner and actor as services of a real systemd, from the units that `loop service install --system` writes.

The processes are real, with the light policy, worlds and trainer of the other fault tests in a drop-in. They start, are
killed, hang, come back and go on. Minutes: `pytest -m slow tests/faults/test_under_systemd.py`.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
from pathlib import Path

import pytest
import yaml
from booted import booted
from fleet import HERE, ROOT, TASKS

from common import cli
from common.errors import RunError
from common.keys import new_keys
from common.metrics import MetricsReader
from learner.gateway.ledger import open_database

pytestmark = pytest.mark.slow
LEARNER, ACTOR = "loop-learner.service", "loop-actor@0.service"
DROP_IN = """
[Service]
ExecStart=
ExecStart={command}
EnvironmentFile={environment}
RestartSec=1
WatchdogSec={watchdog}
StandardOutput=append:{printed}
StandardError=append:{printed}
"""


class Site:
    """One machine with a learner and an actor of one run, and its systemd."""

    def __init__(self, folder: Path, systemd) -> None:
        self.folder, self.systemd, self.run = folder, systemd, folder / "run"
        for name in ("learner", "actor-0"):
            new_keys(folder / "keys", name)
        (folder / "train.txt").write_text("\n".join(TASKS))
        self.config = folder / "run.yaml"
        self.write_config()
        light = {"turn_tokens": 40, "episode_seconds": 0.2, "step_seconds": 0.05, "weight_bytes": 50_000, "seed": 1}
        settings = json.dumps({**light, "seen": str(self.run / "seen.jsonl")})
        path = os.pathsep.join([str(ROOT), str(HERE), *filter(None, sys.path)])
        (folder / "light.env").write_text(f"LIGHT='{settings}'\nPYTHONPATH='{path}'\n")
        self.install("learner", "actor@0")
        self.put_in(LEARNER, "light_learner.py", "--resume")
        self.put_in("loop-actor@.service", "light_actor.py", "--actor.name", "actor-%i")
        systemd.systemctl("daemon-reload")

    def write_config(self, **more) -> None:
        ports = {"port": free_port(), "files_port": free_port()}
        rollout = {"train_tasks": "train.txt", "steps": 100_000, "groups_per_step": 2, "group_size": 3}
        tree = {
            "run": {"folder": "run"},
            "link": {**ports, "keys": "keys", "heartbeat_seconds": 0.5},
            "actor": {"episodes": 4, "drain_seconds": 1.0, "flush_seconds": 3.0, "folder": "actor"},
            "learner": {"rollout": {**rollout, "staleness_bound": 2, "lease_seconds": 20.0, "most_failures": 1000}},
            **more,
        }
        self.config.write_text(yaml.safe_dump(tree))

    def install(self, *parts) -> None:
        words = ["--system", "--run-as", "root", "--into", str(self.systemd.units), "--config", str(self.config)]
        assert cli.main(["service", "install", *words, *parts]) == 0

    def put_in(self, unit, script, *words, watchdog=60) -> None:
        """A drop-in: the light process instead of the real one, a short back-off, output into a file."""
        command = shlex.join([sys.executable, str(HERE / script), "--config", str(self.config), *words])
        place = self.systemd.units / f"{unit}.d"
        place.mkdir(exist_ok=True)
        (place / "light.conf").write_text(
            DROP_IN.format(
                command=command,
                environment=self.folder / "light.env",
                printed=self.folder / "printed",
                watchdog=watchdog,
            )
        )

    def start(self, *units) -> None:
        """Returns when all of them are ready."""
        done = self.systemd.systemctl("start", *units)
        assert done.returncode == 0, done.stderr + self.printed()

    def printed(self) -> str:
        file = self.folder / "printed"
        return file.read_text(errors="replace")[-3000:] if file.exists() else ""

    def steps(self) -> int:
        try:
            database = open_database(self.run / "ledger.sqlite", read_only=True)
        except RunError:
            return 0
        try:
            return database.execute("SELECT COALESCE(MAX(step), 0) FROM steps").fetchone()[0]
        finally:
            database.close()

    def until_steps(self, more: int) -> None:
        enough = self.steps() + more
        self.systemd.until(lambda: self.steps() >= enough, f"{more} steps more: {self.printed()}")

    def until_back(self, unit: str, before: dict[str, str]) -> dict[str, str]:
        """A unit that was started again and is ready."""

        def is_back() -> bool:
            now = self.systemd.shown(unit)
            return now["ActiveState"] == "active" and now["MainPID"] != before["MainPID"]

        self.systemd.until(is_back, f"{unit} again: {self.printed()}")
        return self.systemd.shown(unit)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "cache"))
    with booted(tmp_path) as systemd:
        made = Site(tmp_path, systemd)
        yield made
        systemd.systemctl("stop", LEARNER, ACTOR)


def test_services_start_are_killed_come_back_and_go_on(site):
    site.start(LEARNER, ACTOR)
    site.until_steps(3)
    learner, actor = site.systemd.shown(LEARNER), site.systemd.shown(ACTOR)
    assert (learner["ActiveState"], actor["ActiveState"]) == ("active", "active")
    assert "gateway: " in learner["StatusText"]
    assert actor["StatusText"].startswith("rolls out")
    for unit in (ACTOR, LEARNER):
        before = site.systemd.shown(unit)
        assert site.systemd.systemctl("kill", "--signal=KILL", "--kill-whom=main", unit).returncode == 0
        after = site.until_back(unit, before)
        assert after["NRestarts"] == "1"
        site.until_steps(3)
    assert site.systemd.shown(ACTOR)["NRestarts"] == "1"  # it outlived its learner
    done = site.systemd.systemctl("stop", LEARNER, ACTOR)
    assert done.returncode == 0
    for unit in (LEARNER, ACTOR):
        shown = site.systemd.shown(unit)
        assert (shown["Result"], shown["ExecMainStatus"], shown["ActiveState"]) == ("success", "0", "inactive")
    events = [event["event"] for event in MetricsReader(site.run / "logs" / "actor-0.jsonl").new()]
    assert "left" in events


def test_a_learner_whose_gateway_hangs_is_started_again_by_the_watchdog(site):
    site.put_in(LEARNER, "light_learner.py", "--resume", watchdog=6)
    site.systemd.systemctl("daemon-reload")
    site.start(LEARNER, ACTOR)
    site.until_steps(2)
    before = site.systemd.shown(LEARNER)
    hang_gateway(site)
    after = site.until_back(LEARNER, before)
    assert after["NRestarts"] == "1"
    site.until_steps(2)


def hang_gateway(site) -> None:
    """The gateway's id of process in its own namespace, stopped in this one."""
    inside = json.loads((site.run / "gateway.json").read_text())["pid"]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            ids = next(line for line in status.read_text().splitlines() if line.startswith("NSpid:")).split()[1:]
            command = (status.parent / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if len(ids) > 1 and ids[-1] == str(inside) and str(site.config).encode() in command:
            os.kill(int(ids[0]), signal.SIGSTOP)
            return
    pytest.fail("the gateway is not among the processes")


def test_a_wrong_configuration_is_not_tried_again(site):
    site.write_config(link={"heartbeat_second": 1.0})
    done = site.systemd.systemctl("start", LEARNER)
    assert done.returncode != 0
    site.systemd.until(lambda: site.systemd.shown(LEARNER)["ActiveState"] == "failed", "the end of it")
    shown = site.systemd.shown(LEARNER)
    assert (shown["ExecMainStatus"], shown["NRestarts"]) == ("2", "0")
    assert "did you mean 'heartbeat_seconds'" in site.printed()


def test_a_unit_whose_key_is_missing_says_so_in_a_line_and_is_not_tried_again(site):
    unit = "loop-actor@7.service"
    done = site.systemd.systemctl("start", unit)
    assert done.returncode != 0
    shown = site.systemd.shown(unit)
    assert (shown["ExecMainStatus"], shown["NRestarts"], shown["ActiveState"]) == ("2", "0", "failed")
    line = site.printed().splitlines()[-1]
    assert "keys/actor-7.secret: no key there (No such file or directory)" in line
    assert "loop keys new actor-7" in line


def test_the_key_comes_from_systemd_and_the_services_write_nowhere_else(site):
    """The service cannot read the folder's own secret; what systemd loaded for it is enough."""
    probe = (
        "import os, pathlib, sys, tempfile; from common.keys import learner_keys; "
        "learner_keys(pathlib.Path('nowhere')); "
        "print('temporary files:', tempfile.gettempdir()); "
        "print(open('/proc/self/status').read()); open('/etc/loop-was-here', 'w')"
    )
    place = site.systemd.units / f"{LEARNER}.d"
    command = shlex.join([sys.executable, "-c", probe])
    (place / "probe.conf").write_text(f"[Service]\nType=exec\nExecStart=\nExecStart={command}\nRestart=no\n")
    site.systemd.systemctl("daemon-reload")
    site.systemd.systemctl("start", LEARNER)
    site.systemd.until(lambda: site.systemd.shown(LEARNER)["ActiveState"] == "failed", "the end of the probe")
    assert "temporary files: /" in site.printed()  # also where the run itself lies in /tmp
    assert "NoNewPrivs:\t1" in site.printed()
    assert "Seccomp:\t2" in site.printed()
    assert "Read-only file system: '/etc/loop-was-here'" in site.printed()
