"""Real parts for the system tests: a small policy made by the real commands, and one short run with it."""

import json
import re
import subprocess
import sys
import time

import pytest

from common.journal import Journal
from common.processes import Children

STEPS, GROUPS, MEMBERS = 2, 4, 6
DEADLINE_SECONDS = 480
ADDRESS = re.compile(r"\b0x[0-9a-f]+\b")


def run_loop(*words):
    """Run a `loop` command to its end; fail with what it said when it fails."""
    command = [sys.executable, "-m", "common.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"loop {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done


def assert_all_come_out_again(run, world_root):
    """Every recorded trajectory replays, its grade with it. How many.

    What a policy prints of an object in memory is another process's address: the one difference that is let pass.
    """
    facts = json.loads(run_loop("replay", run, "--all", "--json", "--world.root", world_root).stdout)
    recorded = sum(1 for _ in Journal(run).places())
    others = facts["trajectories"]  # all but those that are the same
    assert (facts["different"], facts["failed"], facts["damage"]) == (0, 0, [])
    assert facts["replayed"] == recorded == facts["same"] + len(others)
    for difference in (one for trajectory in others for one in trajectory["differences"]):
        assert (difference["kind"], difference["excuse"]) == ("observation", "address"), difference
        sides = {ADDRESS.sub("0x", difference[side]) for side in ("recorded", "replayed")}
        assert len(sides) == 1, difference
    return recorded


def until(children, run, condition):
    """Wait for a condition; fail with what was printed when a process ends badly, or after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        outputs = {file.name: file.read_text()[-3000:] for file in run.glob("*.out")}
        bad = {name: code for name, code in children.ended().items() if code}
        assert not bad, (bad, outputs)
        assert time.monotonic() < deadline, outputs
        time.sleep(0.2)


@pytest.fixture(scope="session")
def small_policy(world_root, tmp_path_factory):
    """A policy that was warm-started for a moment: it writes code that earns something often enough to learn from."""
    folder = tmp_path_factory.mktemp("policy")
    demonstrations, model = folder / "demonstrations.jsonl", folder / "model"
    run_loop("world", "demonstrate", "--root", world_root, "--out", demonstrations, "--count", 300, "--seed", 1)
    options = ("--config", "configs/tiny.yaml", "--learner.warm_start.steps", 500, "--run.folder", folder / "run")
    run_loop("learner", "warm-start", "--demonstrations", demonstrations, "--out", model, *options)
    return model


def learner_options(run, world_root, model, **more):
    """Options of a short run; `more` by dotted names with `__` for dots."""
    datasets = world_root / "full" / "data" / "datasets"
    tasks = run / "evaluated.txt"
    tasks.write_text("\n".join((datasets / "test_normal.txt").read_text().split()[:4]) + "\n")
    options = {
        "run.folder": run,
        "link.keys": run / "keys",
        "link.port": 0,
        "link.files_port": 0,
        "learner.model.path": model,
        "learner.rollout.train_tasks": datasets / "train.txt",
        "learner.rollout.steps": STEPS,
        "learner.rollout.groups_per_step": GROUPS,
        "learner.rollout.group_size": MEMBERS,
        "learner.batch.epochs": 1,  # so that the ratios at lag 0 are of one policy, as engine and learner have it
        "learner.evaluation.tasks": tasks,
        "learner.evaluation.temperatures": 0.0,
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    return [
        "--config",
        "configs/tiny.yaml",
        *(str(word) for key, value in options.items() for word in (f"--{key}", value)),
    ]


def actor_options(run, world_root):
    """Options of an actor for the learner that listens in `run`."""
    ports = json.loads((run / "gateway.json").read_text())
    options = {
        "run.folder": run,
        "link.keys": run / "keys",
        "link.port": ports["port"],
        "link.files_port": ports["files_port"],
        "world.root": world_root,
        "actor.episodes": 16,
    }
    return [
        "--config",
        "configs/tiny.yaml",
        *(str(word) for key, value in options.items() for word in (f"--{key}", value)),
    ]


@pytest.fixture(scope="session")
def finished_run(world_root, small_policy, tmp_path_factory):
    """The folder of a run of two steps, with an evaluation before and after, that ended by itself."""
    run = tmp_path_factory.mktemp("run")
    for name in ("learner", "actor-0"):
        run_loop("keys", "new", name, "--folder", run / "keys")
    children = Children()
    try:
        learner = learner_options(run, world_root, small_policy)
        children.start("learner", ["common.cli", "learner", *learner], output=run / "learner.out")
        until(children, run, (run / "gateway.json").exists)
        children.start("actor", ["common.cli", "actor", *actor_options(run, world_root)], output=run / "actor.out")
        until(children, run, lambda: set(children.ended()) == {"learner", "actor"})
        assert children.ended() == {"learner": 0, "actor": 0}
    finally:
        children.stop(8.0)
    return run
