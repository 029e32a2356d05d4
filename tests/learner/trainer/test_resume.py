"""What a state must hold so that a run goes on as if it had not stopped: no generator's state, dropout or not."""

import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_disk import small_disk
from trainer_building import FakeGateway, make_model_folder, random_groups

from common.config import RunConfig
from common.errors import RunError
from learner.config import LearnerConfig
from learner.trainer.loop import Trainer
from learner.trainer.resume import MOMENTS, WEIGHTS, folder_of_step

STEPS = 4


def train(folder, base, *, steps, dropout):
    """One life of a trainer up to step `steps`; begun with generators that differ from life to life."""
    config = LearnerConfig.model_validate(
        {
            "model": {
                "path": base,
                "training": "lora",
                "device": "cpu",
                "lora": {"rank": 4, "dropout": dropout},
            },
            "rollout": {"steps": steps, "staleness_bound": 100},
            "batch": {"micro_batch_tokens": 100, "epochs": 2, "minibatch": 3},
        }
    )
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(random.SystemRandom().randrange(2**31))
    groups = {step: random_groups(step, groups=2, members=3) for step in range(1, STEPS + 1)}
    trainer = Trainer(RunConfig(folder=folder), config, FakeGateway(groups))
    trainer.start(resumed=True)
    trainer.run()


def tensors_after(folder, step):
    where = folder_of_step(folder / "state", step)
    return {**load_file(where / WEIGHTS), **load_file(where / MOMENTS)}


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in other)


def test_a_resumed_run_with_dropout_ends_bit_for_bit_as_one_that_was_not_stopped(tmp_path):
    """Its masks follow from the run's seed and the step alone: whatever was drawn before does not matter."""
    base = make_model_folder(tmp_path / "base")
    train(tmp_path / "straight", base, steps=STEPS, dropout=0.3)
    for steps in (1, 3, STEPS):
        train(tmp_path / "stopped", base, steps=steps, dropout=0.3)
    expected = tensors_after(tmp_path / "straight", STEPS)
    assert same_bits(tensors_after(tmp_path / "stopped", STEPS), expected)
    # and dropout is at work: without it the run goes elsewhere
    train(tmp_path / "without", base, steps=STEPS, dropout=0.0)
    assert not same_bits(tensors_after(tmp_path / "without", STEPS), expected)


@pytest.mark.parametrize("full", ["state", "checkpoints"])
def test_a_full_disk_ends_the_trainer_with_one_line_and_it_goes_on_bit_for_bit(tmp_path, full):
    base = make_model_folder(tmp_path / "base")
    train(tmp_path / "straight", base, steps=STEPS, dropout=0.0)
    with small_disk(tmp_path / "stopped" / full, 16) as disk:
        train(tmp_path / "stopped", base, steps=1, dropout=0.0)
        disk.fill()
        with pytest.raises(RunError, match=f"{full}.* cannot be written: .*No space left.*make room on its disk"):
            train(tmp_path / "stopped", base, steps=STEPS, dropout=0.0)
        assert not list(disk.folder.glob(".draft-*"))
        disk.empty()
        train(tmp_path / "stopped", base, steps=STEPS, dropout=0.0)
        assert same_bits(tensors_after(tmp_path / "stopped", STEPS), tensors_after(tmp_path / "straight", STEPS))
