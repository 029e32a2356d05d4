"""Two ranks over gloo on the CPU against one process: parameters, norms, versions, refusals; and the dealing of work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rank_worker import SCENARIOS, STEPS, train
from safetensors.torch import load_file
from trainer_building import make_model_folder

from common.checkpoint import folder_of, read_manifest, verify
from learner.rank_processes import environments
from learner.trainer.batch import dealt, pack
from learner.trainer.ranks import Ranks

ROOT = Path(__file__).resolve().parents[3]
RELATIVE = 1e-6


def start_ranks(arguments, count=2, **more):
    """Processes that run a worker script, one a rank."""
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **own},
        )
        for own in environments(count)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every scenario trained by one process and by two: their folders."""
    alone, shared = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("shared")
    for folder in (alone, shared):
        make_model_folder(folder / "base", deviation=0.1)
        make_model_folder(folder / "tied-base", deviation=0.1, tied=True)
    processes = start_ranks([Path(__file__).with_name("rank_worker.py"), shared, *SCENARIOS])
    try:
        for name in SCENARIOS:
            gateway = train(alone, name)
            (alone / name / "told.json").write_text(json.dumps([gateway.told, gateway.is_finished]))
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return alone, shared


def state_of(folder, name, step, file="weights"):
    return load_file(folder / name / "state" / f"step{step:06d}" / f"{file}.safetensors")


def steps_of(folder, name):
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "step"]


def relative(one, other):
    """|one - other| / |other| over all tensors together, 2-norms in float64."""
    difference = sum(float((one[name].double() - other[name].double()).square().sum()) for name in other)
    return (difference / sum(float(value.double().square().sum()) for value in other.values())) ** 0.5


@pytest.mark.parametrize("name", ["full", "tied", "lora"])
def test_two_ranks_give_the_parameters_of_one_process(folders, name):
    alone, shared = folders
    for file in ("weights", "optimizer"):
        one, two = state_of(alone, name, STEPS, file), state_of(shared, name, STEPS, file)
        assert {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in two.items()}
        assert relative(two, one) < (RELATIVE if file == "weights" else 1e-5)
    start = state_of(alone, name, 2)
    moved = {key: value - start[key] for key, value in state_of(alone, name, STEPS).items()}
    assert relative(moved, start) > 100 * RELATIVE
