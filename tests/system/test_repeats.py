"""Determinism on a CPU: the same seed and one episode at a time give the same twice, bit for bit.

The engine alone repeats where its reloads come at the same points between turns, in every mode. A whole run repeats
with a staleness bound of 0, where the schedule fixes those points: no episode is under way while a step is made.
Both runs of a pair are fresh processes, started at the same time on purpose, so that they disturb each other's clocks.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from system.conftest import actor_options, learner_options, run_loop, until
from system.test_one_trajectory import journalled, lines
from tiny_model import make_model

from common.checkpoint import folder_of, read_manifest
from common.processes import Children

ROOT = Path(__file__).resolve().parents[2]
STEPS, GROUPS, MEMBERS = 2, 2, 4
# scenarios that the small policy solves in part, so that most groups have signal
MIXED = ("openTasks", "fileCount", "pinNote", "likedCount")


def test_the_engine_samples_the_same_twice_with_reloads_between_its_turns(tmp_path):
    folders = [str(make_model(tmp_path / f"v{version}", version)) for version in (0, 1)]
    command = [sys.executable, str(ROOT / "tests" / "system" / "repeating.py"), *folders, "5"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    one, other = (json.loads(output.splitlines()[-1]) for output in outputs)
    assert one == other
    for number, turns in enumerate(one.values()):
        assert {version for _, _, versions in turns for version in versions} == {number, number + 1}
    # the first turn of the first mode and of the third: the same prompt and weights, but chance has moved on
    assert one["in_flight"][0][0] != one["between_episodes"][0][0]


def play(run, world_root, model):
    """One whole run into the folder `run`."""
    run.mkdir()
    for name in ("learner", "actor-0"):
        run_loop("keys", "new", name, "--folder", run / "keys")
    tasks = (world_root / "full" / "data" / "datasets" / "train.txt").read_text().split()
    (run / "mixed.txt").write_text("\n".join(task for task in tasks if task.startswith(MIXED)))
    options = {
        "learner__rollout__train_tasks": run / "mixed.txt",
        "learner__rollout__steps": STEPS,
        "learner__rollout__groups_per_step": GROUPS,
        "learner__rollout__group_size": MEMBERS,
        "learner__rollout__staleness_bound": 0,
        "learner__rollout__refill_most": 4,
        "learner__rollout__max_turns": 4,
        "learner__evaluation__before": "false",
        "learner__evaluation__after": "false",
    }
    children = Children()
    try:
        learner = learner_options(run, world_root, model, **options)
        children.start("learner", ["common.cli", "learner", *learner], output=run / "learner.out")
        until(children, run, (run / "gateway.json").exists)
        actor = [*actor_options(run, world_root), "--actor.episodes", "1"]
        children.start("actor", ["common.cli", "actor", *actor], output=run / "actor.out")
        until(children, run, lambda: set(children.ended()) == {"learner", "actor"})
        assert children.ended() == {"learner": 0, "actor": 0}
    finally:
        children.stop(8.0)
    return run


@pytest.fixture(scope="module")
def twins(world_root, small_policy, tmp_path_factory):
    """Two runs of the same words."""
    folder = tmp_path_factory.mktemp("twins")
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda name: play(folder / name, world_root, small_policy), ("one", "other")))


def told(trajectory):
    """All of a trajectory that the policy and its worlds decided: no clock is in it."""
    return {
        "id": trajectory.trajectory_id,
        "task": trajectory.lease.task_id,
        "tokens": trajectory.tokens.tolist(),
        "log_probs": trajectory.log_probs.tobytes().hex(),
        "versions": trajectory.versions.tolist(),
        "turns": [(int(begin), int(end)) for begin, end in trajectory.turns],
        "reward": trajectory.reward,
        "success": trajectory.success,
        "tags": trajectory.tags,
    }


@pytest.mark.slow
def test_trajectories_are_equal_to_the_last_bit(twins):
    one, other = ([told(each) for each in journalled(run, "trajectories t ORDER BY trajectory_id")] for run in twins)
    assert len(one) >= STEPS * GROUPS * MEMBERS
    assert one == other
    assert {version for each in one for version in each["versions"] if version >= 0} == {0, 1}
    assert len({each["log_probs"] for each in one}) > len(one) / 2  # they are not all the same episode


@pytest.mark.slow
def test_published_weights_are_equal_and_each_step_changed_them(twins):
    digests = [
        [read_manifest(folder_of(run / "checkpoints", version))[0].files["model.safetensors"].sha256 for run in twins]
        for version in range(STEPS + 1)
    ]
    assert all(one == other for one, other in digests)
    assert all(before != after for before, after in pairwise(digests))


@pytest.mark.slow
def test_what_a_step_says_of_itself_is_equal_but_for_its_seconds(twins):
    one, other = ([_without_clocks(line) for line in lines(run / "metrics.jsonl", "step")] for run in twins)
    assert len(one) == STEPS
    assert json.dumps(one) == json.dumps(other)


def _without_clocks(line):
    kept = {name: value for name, value in line.items() if name not in ("time", "seconds")}
    return {**kept, "recomputed": {name: value for name, value in line["recomputed"].items() if name != "seconds"}}
