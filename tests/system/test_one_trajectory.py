"""One real trajectory through all twelve stages, in real processes: gateway, trainer, actor with vLLM, AppWorld."""

import json
import sqlite3
import time

import numpy as np
import pytest
from system.conftest import run_loop

from common.checkpoint import folder_of, published_versions, verify
from common.messages import Trajectory, decode

STEPS, GROUPS, MEMBERS = 2, 4, 6
DEADLINE_SECONDS = 420


@pytest.fixture(scope="module")
def finished_run(world_root, small_policy, tmp_path_factory):
    """The folder of a run of two steps, with an evaluation before and after, that ended by itself."""
    run = tmp_path_factory.mktemp("run")
    datasets = world_root / "full" / "data" / "datasets"
    tasks = run / "evaluated.txt"
    tasks.write_text("\n".join((datasets / "test_normal.txt").read_text().split()[:4]) + "\n")
    keys = run / "keys"
    for name in ("learner", "actor-0"):
        run_loop("keys", "new", name, "--folder", keys)
    options = {
        "--run.folder": run,
        "--link.keys": keys,
        "--learner.model.path": small_policy,
        "--learner.rollout.train_tasks": datasets / "train.txt",
        "--learner.rollout.steps": STEPS,
        "--learner.rollout.groups_per_step": GROUPS,
        "--learner.rollout.group_size": MEMBERS,
        "--learner.evaluation.tasks": tasks,
        "--learner.evaluation.temperatures": "0.0",
    }
    learner = [str(word) for option in options.items() for word in option]
    children = Children()
    try:
        children.start(
            "learner",
            ["common.cli", "learner", "--config", "configs/tiny.yaml", *learner, "--link.port", "0", "--link.files_port", "0"],
            output=run / "learner.out",
        )
        until(children, run, lambda: (run / "gateway.json").exists())
        ports = json.loads((run / "gateway.json").read_text())
        actor = ["--run.folder", run, "--link.keys", keys, "--world.root", world_root, "--actor.episodes", 16]
        link = ["--link.port", ports["port"], "--link.files_port", ports["files_port"]]
        children.start(
            "actor",
            ["common.cli", "actor", "--config", "configs/tiny.yaml", *map(str, actor + link)],
            output=run / "actor.out",
        )
        until(children, run, lambda: set(children.ended()) == {"learner", "actor"})
        assert children.ended() == {"learner": 0, "actor": 0}
    finally:
        children.stop(8.0)
    return run


def until(children, run, condition):
    """Wait for a condition; fail with what was printed when a process ends badly, or after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        bad = {name: code for name, code in children.ended().items() if code}
        outputs = {file.name: file.read_text()[-3000:] for file in run.glob("*.out")}
        assert not bad, (bad, outputs)
        assert time.monotonic() < deadline, outputs
        time.sleep(0.2)


def rows(run, query, *values):
    with sqlite3.connect(f"file:{run / 'ledger.sqlite'}?mode=ro", uri=True) as database:
        return database.execute(query, values).fetchall()


def events(run, kind):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def logged(file, name):
    return [line for line in map(json.loads, file.read_text().splitlines()) if line["event"] == name]


@pytest.fixture(scope="module")
def trained(finished_run):
    """A trajectory that was trained on, as it came over the link."""
    (frame,) = rows(
        finished_run,
        "SELECT frame FROM trajectories JOIN leases ON trajectory_id = lease_id WHERE state = 'trained' ORDER BY lease_id LIMIT 1",
    )[0]
    trajectory = decode(frame)
    assert isinstance(trajectory, Trajectory)
    return trajectory
