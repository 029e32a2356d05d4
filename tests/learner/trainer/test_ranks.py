"""Two ranks over gloo on the CPU against one process: parameters, norms, versions, refusals; the dealing of work."""

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
    train(shared, "resumed", steps=1)  # begun by one process, gone on with by two
    processes = start_ranks([Path(__file__).with_name("rank_worker.py"), shared, *SCENARIOS])
    try:
        for name in SCENARIOS:
            train(alone, name)
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


@pytest.mark.parametrize("name", ["full", "tied", "lora", "resumed"])
def test_two_ranks_give_the_parameters_of_one_process(folders, name):
    """All that is saved, after several optimizer steps that clip, with shares that differ and passes without any."""
    alone, shared = folders
    for file in ("weights", "optimizer"):
        one, two = state_of(alone, name, STEPS, file), state_of(shared, name, STEPS, file)
        shapes = [{key: (value.shape, value.dtype) for key, value in state.items()} for state in (one, two)]
        assert shapes[0] == shapes[1]
        assert relative(two, one) < RELATIVE
    before, after = (state_of(alone, name, step) for step in (STEPS - 1, STEPS))
    assert relative(after, before) > 100 * RELATIVE


@pytest.mark.parametrize("name", ["full", "tied", "lora"])
def test_loss_norm_and_figures_are_those_of_one_process(folders, name):
    one, two = (steps_of(folder, name) for folder in folders)
    assert len(one) == len(two) == STEPS
    for ours, theirs in zip(two, one, strict=True):
        assert theirs["gradient_norm"] > 0.05  # the clip's bound
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=RELATIVE)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5, abs=1e-6)
        for key in ("trained_tokens", "optimizer_steps", "trajectories", "sampled_tokens", "lags"):
            assert ours[key] == theirs[key]
        assert ours["ratios"].keys() == theirs["ratios"].keys()
        for key in ("tokens", "ratio_mean", "kl_k1", "kl_k3", "clip_share", "ess", "entropy"):
            assert ours["ratios"][key] == pytest.approx(theirs["ratios"][key], rel=1e-4, abs=1e-6)
        if name == "full":  # in the second step under the first step's version, read back by each rank
            for part in ("mismatch", "staleness"):
                assert ours["recomputed"][part] == pytest.approx(theirs["recomputed"][part], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["full", "tied", "lora"])
def test_what_ranks_publish_is_what_one_process_publishes(folders, name):
    ours, theirs = (folder_of(folder / name / "checkpoints", STEPS) for folder in reversed(folders))
    verify(ours)
    two, one = read_manifest(ours)[0], read_manifest(theirs)[0]
    assert two.kind == one.kind
    assert two.probe.tokens == one.probe.tokens
    assert two.probe.log_probs == pytest.approx(one.probe.log_probs, rel=1e-5)
    assert set(two.files) == set(one.files)
    for file in set(one.files) - {"README.md"}:  # which states figures and the time
        if file.endswith(".safetensors"):
            assert relative(load_file(ours / file), load_file(theirs / file)) < RELATIVE
        else:
            assert (ours / file).read_bytes() == (theirs / file).read_bytes()


@pytest.mark.parametrize("name", SCENARIOS)
def test_rank_0_alone_tells_the_gateway(folders, name):
    (one, one_ended), (two, two_ended) = (json.loads((folder / name / "told.json").read_text()) for folder in folders)
    assert one_ended
    assert two_ended
    # all but the digests, whose weights differ in their last bits
    told = [[(version, step, consumed, dropped) for version, _, step, consumed, dropped in each] for each in (one, two)]
    assert told[1] == (told[0][1:] if name == "resumed" else told[0])


@pytest.mark.parametrize("name", ["full", "lora"])
def test_each_rank_holds_its_share_of_all_weights(folders, name):
    alone, shared = folders
    whole = json.loads((alone / name / "held-0.json").read_text())
    held = [json.loads((shared / name / f"held-{rank}.json").read_text()) for rank in (0, 1)]
    assert sum(held) == whole
    assert max(held) < 0.55 * whole


def test_a_loss_that_is_not_finite_on_one_rank_is_refused_on_all(folders):
    _, shared = folders
    refused, made = steps_of(shared, "poisoned")
    assert (refused["refused"], refused["optimizer_steps"], refused["trajectories"]) == (True, 0, 0)
    assert (made["refused"], made["optimizer_steps"]) == (False, 1)
    kept, moved = (state_of(shared, "poisoned", step) for step in (1, 2))
    start = load_file(shared / "base" / "model.safetensors")
    assert all(torch.equal(kept[key], start[key]) for key in start)
    assert all(bool(value.isfinite().all()) for value in moved.values())
    assert relative(moved, start) > 100 * RELATIVE
    assert relative(moved, state_of(folders[0], "poisoned", 2)) < RELATIVE


def test_one_process_goes_on_with_what_two_ranks_saved(folders):
    alone, shared = folders
    for folder in folders:
        train(folder, "full", resumed=True, steps=STEPS + 1)
    assert relative(state_of(shared, "full", STEPS + 1), state_of(alone, "full", STEPS + 1)) < RELATIVE


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (2, 1), (3, 2), (8, 3)])
def test_whole_trajectories_are_dealt_out_evenly_in_as_many_passes_on_every_rank(count, seed):
    rng = np.random.default_rng(seed)
    lengths, budget = rng.integers(1, 400, size=int(rng.integers(1, 30))).tolist(), 500
    shares = [dealt(lengths, budget, Ranks(rank=rank, count=count)) for rank in range(count)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(index for share in shares for bin_ in share for index in bin_) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in bin_) <= budget for share in shares for bin_ in share)
    loads = [sum(lengths[i] for bin_ in share for i in bin_) for share in shares]
    assert max(loads) - min(loads) <= max(lengths)
    if count == 1:
        assert shares == [pack(lengths, budget)]
