"""Two machines with nothing in common but TCP: a run learns across them, through a cut of twenty seconds.

The commands are those of README's "On several machines". Each machine is a network namespace and a mount namespace:
where the other's folder was, it sees an empty one.
A quarter of an hour: `pytest -m slow tests/faults/test_two_machines.py`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from namespaces import LEARNER_ADDRESS, two_machines
from system.conftest import run_loop

from common.cache import cache_folder
from common.figures import collect
from common.metrics import MetricsReader

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ("--config", ROOT / "configs" / "tiny.yaml")
CUT_SECONDS, SILENCE = 20.0, 6.0
LONGEST = 3600.0  # seconds, on a busy machine


@pytest.fixture
def cable():
    with two_machines() as laid:
        yield laid


class Machine:
    """One machine: its namespace, its folder, the other's folders, and the process that runs there."""

    def __init__(self, prefix, folder, *, hidden) -> None:
        self.folder, self._hidden = folder, hidden
        mounts = [f"mount -t tmpfs none {shlex.quote(str(other))}" for other in hidden]
        self._prefix = [*prefix, "unshare", "--mount", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "machine"]
        self.process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def runs(self, *words):
        """A `loop` command for as long as the context lasts; whatever it started is gone afterwards."""
        command = [*self._prefix, sys.executable, "-m", "common.cli", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with (self.folder / "printed").open("ab") as printed:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )
        try:
            yield
        finally:
            self.end()

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def sees_of_the_other(self) -> list[Path]:
        """What the process finds where the other machine's folders are."""
        return [file for other in self._hidden for file in Path(f"/proc/{self.process.pid}/root{other}").iterdir()]

    def log(self, name, event):
        file = self.folder / "runs" / "first" / "logs" / f"{name}.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [entry for line in lines if line.endswith("\n") and (entry := json.loads(line))["event"] == event]

    def told(self) -> str:
        return (self.folder / "printed").read_text(errors="replace")[-3000:]


def until(machines, condition, what):
    deadline = time.monotonic() + LONGEST
    while not condition():
        for machine in machines:
            assert machine.process.poll() in (None, 0), machine.told()
        assert time.monotonic() < deadline, f"no {what}: {[machine.told() for machine in machines]}"
        time.sleep(0.2)


def prepared(folder, *, demonstrations, warm_start):
    """Both machines' folders, each with what README says must be there; the world lies in the actor's cache."""
    learner, actor = folder / "learner", folder / "actor"
    for machine in (learner, actor):
        machine.mkdir()
    world = Path(json.loads(run_loop("world", "build", "--json").stdout)["root"])
    shown = folder / "demonstrations.jsonl"
    run_loop("world", "demonstrate", "--root", world, "--out", shown, "--count", demonstrations, "--seed", 1)
    steps = ("--learner.warm_start.steps", warm_start, "--run.folder", folder / "warm-start")
    run_loop("learner", "warm-start", *CONFIG, "--demonstrations", shown, "--out", learner / "base", *steps)
    for name in ("learner", "actor-0"):
        run_loop("keys", "new", name, "--folder", learner / "keys")
    (actor / "keys").mkdir()
    for key in ("actor-0.secret", "learner.public"):
        shutil.copy(learner / "keys" / key, actor / "keys" / key)
    for tasks in ("train.txt", "test_normal.txt"):
        shutil.copy(world / "full" / "data" / "datasets" / tasks, learner / tasks)
    return learner, actor


def learner_words(*, steps, groups, evaluated):
    options = {
        "run.folder": "runs/first",
        "link.host": LEARNER_ADDRESS,
        "link.keys": "keys",
        "learner.model.path": "base",
        "learner.rollout.train_tasks": "train.txt",
        "learner.rollout.steps": steps,
        "learner.rollout.groups_per_step": groups,
        "learner.evaluation.tasks": evaluated,
        "learner.evaluation.temperatures": 0.0,
    }
    return ["learner", *CONFIG, *(word for name, value in options.items() for word in (f"--{name}", value))]


ACTOR_WORDS = ["actor", *CONFIG, "--link.host", LEARNER_ADDRESS, "--link.keys", "keys", "--run.folder", "runs/first"]
SHORT = {"demonstrations": 300, "warm_start": 300, "steps": 3, "groups": 3, "learns": False}
LONG = {"demonstrations": 2000, "warm_start": 2000, "steps": 30, "groups": 12, "learns": True}


@pytest.mark.slow
@pytest.mark.timeout(2 * LONGEST)
@pytest.mark.parametrize("size", [SHORT, LONG], ids=["short", "learns"])
def test_a_run_goes_on_across_two_machines_through_a_cut(cable, tmp_path, size):
    folders = prepared(tmp_path, demonstrations=size["demonstrations"], warm_start=size["warm_start"])
    learner = Machine(cable.on(cable.learner), folders[0], hidden=[folders[1], cache_folder()])
    actor = Machine(cable.on(cable.actor), folders[1], hidden=[folders[0]])
    run = folders[0] / "runs" / "first"
    reader, events = MetricsReader(run / "metrics.jsonl"), []

    def steps_made():
        events.extend(reader.new())
        return len(collect(events).steps)

    with ExitStack() as running:
        words = learner_words(steps=size["steps"], groups=size["groups"], evaluated="test_normal.txt")
        running.enter_context(learner.runs(*words))
        running.enter_context(actor.runs(*ACTOR_WORDS))
        both = [learner, actor]
        until(both, lambda: steps_made() >= size["steps"] // 3, "third of the steps")
        assert learner.sees_of_the_other() == actor.sees_of_the_other() == []
        cable.pull()
        time.sleep(CUT_SECONDS)
        cable.plug_in()
        until(both, lambda: all(machine.process.poll() == 0 for machine in both), "end of the run")
    steps_made()
    figures = collect(events)
    assert learner.log("gateway", "actor_silent")[0]["seconds"] >= SILENCE
    assert actor.log("actor-0", "learner_silent")[0]["seconds"] >= SILENCE
    assert actor.log("actor-0", "learner_heard_again")
    assert [step["step"] for step in figures.steps] == list(range(1, size["steps"] + 1))
    assert json.loads(run_loop("ledger", run, "--json").stdout)["balanced"] is True
    before, after = figures.success("before.t0"), figures.success("after.t0")
    sys.stdout.write(json.dumps({"before": before, "after": after, **figures.phase_seconds}) + "\n")
    assert not size["learns"] or after > before + 0.2
