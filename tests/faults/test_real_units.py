"""The real learner and the real actor as services of a real systemd, hardened as `loop service install` writes them.

vLLM, torch and AppWorld's worlds under every directive of configs/systemd: two steps, a kill, a polite leave. The
worlds' guards are those that they have outside of systemd. A quarter of an hour on two busy cores:
`pytest -m slow tests/faults/test_real_units.py`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from booted import booted
from system.conftest import run_loop
from system.soaking import MIXED
from test_under_systemd import ACTOR, LEARNER, free_port

from actor.world.client import WorldHost
from actor.world.config import WorldConfig
from common import cli
from common.cache import cache_folder
from common.keys import new_keys
from common.metrics import MetricsReader

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).resolve().parents[2]
LONGEST = 1500.0  # seconds for any one thing, on a busy machine
STEPS = 1_000_000  # more than there is time for: it is stopped
# What a test needs and a machine does not: output into a file where there is no journal, no wait before a restart. The
# keys are taken away, too: what systemd handed over must do.
DROP_IN = """
[Service]
RestartSec=1
StandardOutput=append:{printed}
StandardError=append:{printed}
InaccessiblePaths={secrets}
"""


class Site:
    """One machine with the real learner and actor of one run. Nothing of it lies in /tmp: services have their own."""

    def __init__(self, folder: Path, systemd, model: Path, world_root: Path) -> None:
        self.folder, self.systemd, self.run = folder, systemd, folder / "run"
        self.printed = folder / "printed"
        keys = folder / "keys"
        for name in ("learner", "actor-0"):
            new_keys(keys, name)
        tasks = (world_root / "full" / "data" / "datasets" / "train.txt").read_text().split()
        (folder / "train.txt").write_text("\n".join(task for task in tasks if task.startswith(MIXED)))
        tree = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())
        tree["run"]["folder"] = "run"
        tree["link"] = {"port": free_port(), "files_port": free_port(), "keys": "keys"}
        tree["world"] |= {"root": str(world_root), "require_confinement": True}
        tree["actor"] |= {"episodes": 8, "drain_seconds": 20.0, "flush_seconds": 20.0}
        tree["actor"]["engine"]["kv_cache_megabytes"] = 64
        tree["learner"]["model"]["path"] = str(model)
        tree["learner"]["rollout"] |= {
            "train_tasks": "train.txt",
            "steps": STEPS,
            "groups_per_step": 2,
            "group_size": 4,
            "max_turns": 4,
            "max_turn_tokens": 60,
        }
        (folder / "run.yaml").write_text(yaml.safe_dump(tree))
        words = ["--system", "--run-as", "root", "--into", str(systemd.units), "--config", "run.yaml"]
        assert cli.main(["service", "install", *words]) == 0
        self._put_in(LEARNER, keys / "learner.secret")
        self._put_in("loop-actor@.service", keys)
        systemd.systemctl("daemon-reload")
        self._reader, self._events = MetricsReader(self.run / "metrics.jsonl"), []

    def _put_in(self, unit: str, secrets: Path) -> None:
        place = self.systemd.units / f"{unit}.d"
        place.mkdir()
        (place / "test.conf").write_text(DROP_IN.format(printed=self.printed, secrets=secrets))

    def start(self, *units: str) -> None:
        """Returns when all of them are ready."""
        done = self.systemd.systemctl("start", *units)
        assert done.returncode == 0, done.stderr + self.told()

    def told(self) -> str:
        return self.printed.read_text(errors="replace")[-5000:] if self.printed.exists() else ""

    def logged(self, process: str, event: str) -> list[dict]:
        """What a process said of an event, in its whole life and that of its predecessors."""
        found = MetricsReader(self.run / "logs" / f"{process}.jsonl").new()
        return [one for one in found if one["event"] == event]

    def steps(self) -> int:
        self._events += self._reader.new()
        return sum(one["event"] == "step" for one in self._events)

    def until(self, condition, what: str) -> None:
        deadline = time.monotonic() + LONGEST
        while not condition():
            for unit in (LEARNER, ACTOR):
                assert self.systemd.shown(unit)["ActiveState"] != "failed", f"{unit}: {self.told()}"
            assert time.monotonic() < deadline, f"no {what}: {self.told()}"
            time.sleep(1.0)

    def until_steps(self, more: int) -> None:
        enough = self.steps() + more
        self.until(lambda: self.steps() >= enough, f"{more} steps more")


@pytest.fixture(scope="module")
def policy(world_root, tmp_path_factory):
    """A policy that was warm-started for a moment: it solves a task right now and then, so that steps have signal."""
    folder = tmp_path_factory.mktemp("policy")
    demonstrations = folder / "demonstrations.jsonl"
    run_loop("world", "demonstrate", "--root", world_root, "--out", demonstrations, "--count", 300, "--seed", 1)
    options = ("--config", "configs/tiny.yaml", "--learner.warm_start.steps", 300, "--run.folder", folder / "run")
    run_loop("learner", "warm-start", "--demonstrations", demonstrations, "--out", folder / "model", *options)
    return folder / "model"


@pytest.fixture
def site(policy, world_root, tmp_path, monkeypatch):
    """Beside the real cache, whose AppWorld the worlds run in."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="units-", dir=cache_folder()))
    try:
        monkeypatch.chdir(folder)
        model = shutil.copytree(policy, folder / "model")
        with booted(tmp_path) as systemd:
            made = Site(folder, systemd, model, world_root)
            yield made
            systemd.systemctl("stop", LEARNER, ACTOR)
    finally:
        shutil.rmtree(folder)


def guards_outside(python, world_root) -> tuple[set[str], set[str]]:
    """Of a world's host and of the grader, as an actor that no systemd started has them."""

    async def started():
        host = await WorldHost.start(WorldConfig(), python, world_root)
        try:
            return set(host.guards), set(host._grader.guards)
        finally:
            await host.close()

    return asyncio.run(started())


def test_the_real_learner_and_actor_work_in_their_hardened_units(site, appworld_python, world_root):
    host_guards, grader_guards = guards_outside(appworld_python, world_root)
    site.start(LEARNER, ACTOR)
    for unit in (LEARNER, ACTOR):
        shown = site.systemd.shown(unit)
        assert (shown["ActiveState"], shown["NRestarts"]) == ("active", "0"), site.told()
    for event, guards in (("world_host_ready", host_guards), ("world_grader_ready", grader_guards)):
        ready = site.logged("actor-0", event)
        assert [set(one["guards"]) for one in ready] == [guards]
        assert ready[0]["missing"] == []
    # a landlock fence in the place of the worlds' own root folder would be a guard as well, and less
    assert site.logged("actor-0", "world_engine_said") == []
    site.until_steps(2)
    assert {one["policy_version"] for one in site.logged("gateway", "version_published")} >= {1, 2}

    before = site.systemd.shown(ACTOR)
    assert site.systemd.systemctl("kill", "--signal=KILL", "--kill-whom=main", ACTOR).returncode == 0
    site.until(lambda: site.systemd.shown(ACTOR)["NRestarts"] == "1", "restart of the actor")
    site.until(lambda: site.systemd.shown(ACTOR)["ActiveState"] == "active", "actor again")
    after = site.systemd.shown(ACTOR)
    assert after["MainPID"] != before["MainPID"]
    assert len(site.logged("actor-0", "welcomed")) == 2
    assert len(site.logged("gateway", "actor_welcomed")) == 2
    site.until_steps(1)
    assert site.systemd.shown(LEARNER)["NRestarts"] == "0"  # it outlived its actor

    for unit in (ACTOR, LEARNER):
        done = site.systemd.systemctl("stop", unit)
        assert done.returncode == 0, done.stderr
        shown = site.systemd.shown(unit)
        # a leave that outlasted TimeoutStopSec= would have the result `timeout`
        assert (shown["Result"], shown["ExecMainStatus"], shown["ActiveState"]) == ("success", "0", "inactive")
    assert site.logged("actor-0", "draining")
    assert [one["leases"] for one in site.logged("actor-0", "left")] == [0]
    books = json.loads(run_loop("ledger", site.run, "--json").stdout)
    assert books["balanced"] is True
