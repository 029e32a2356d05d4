import numpy as np
import pytest
import torch
from trainer_building import make_model_folder, random_groups

from learner.config import LearnerConfig
from learner.trainer.advantage import score
from learner.trainer.groups import Group
from learner.trainer.model import load_policy
from learner.trainer.optimizer import Optimizer
from learner.trainer.update import update


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("model"))


def run_update(folder, *, seed=1, step=1, lora_dropout=0.0, **sections):
    """One step on two groups of three, from fresh weights. Returns what it did and the weights after it."""
    training = {"training": "lora", "lora": {"dropout": lora_dropout}} if lora_dropout else {}
    config = LearnerConfig.model_validate({"model": {"path": folder, "device": "cpu", **training}, **sections})
    policy = load_policy(config.model, folder, seed=1)
    groups = [Group(r.group_id, r.task_id, tuple(r.members)) for r in random_groups(4, groups=2, members=3)]
    scored, _ = score(groups, "leave_one_out", 0.0)
    optimizer = Optimizer(policy.trainable(), config.optimizer)
    made = update(policy, optimizer, scored, config, step=step, policy_version=3, seed=seed)
    return made, {name: value.detach().clone() for name, value in policy.trainable().items()}, scored


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in other)


def test_epochs_and_minibatches_are_optimizer_steps_over_all_trajectories(folder):
    made, _, scored = run_update(folder, batch={"epochs": 2, "minibatch": 2})
    assert made.optimizer_steps == 2 * -(-len(scored) // 2)
    tokens = sum(int(one.trajectory.sampled.sum()) for one in scored)
    assert made.record.summary()["tokens"] == 2 * tokens
    assert made.forward_tokens == 2 * sum(int(np.flatnonzero(one.trajectory.sampled)[-1]) for one in scored)


def test_a_second_epoch_corrects_against_the_recorded_log_probs(folder):
    """The ratios move with the policy: old log-probs are never taken anew from the learner."""
    made, _, _ = run_update(folder, batch={"epochs": 2}, optimizer={"learning_rate": 0.01})
    log_ratio = made.record.column("log_ratio")
    first, second = np.split(log_ratio, 2)
    assert np.abs(first - second).max() > 0.01
    assert set(made.record.summary()["by_lag"]) == {"3"}


def test_a_step_stops_after_the_first_epoch_that_went_too_far(folder):
    """The mean over trajectories of the sum of log mu - log pi, as the figures of a run without a stop have it."""
    options = {"batch": {"epochs": 6}, "optimizer": {"learning_rate": 0.02, "clip_norm": 100.0}}
    free, _, scored = run_update(folder, **options)
    k1 = -free.record.column("log_ratio").reshape(6, -1).sum(1, dtype=np.float64) / len(scored)
    bound = float(np.sort(k1)[-2:].mean())
    assert bound > 0, k1
    made, _, _ = run_update(folder, objective={"kl_stop": bound}, **options)
    assert made.stopped_by_kl
    assert made.optimizer_steps == int(np.argmax(k1 > bound)) + 1
    assert not free.stopped_by_kl
    assert free.optimizer_steps == 6


def test_the_random_numbers_of_a_step_follow_from_seed_and_step(folder):
    """Dropout and shuffling: nothing that happened before matters."""
    options = {"lora_dropout": 0.3, "batch": {"minibatch": 2}}
    _, first, _ = run_update(folder, **options)
    torch.rand(17)
    _, again, _ = run_update(folder, **options)
    _, other_step, _ = run_update(folder, step=2, **options)
    _, other_seed, _ = run_update(folder, seed=2, **options)
    assert equal(first, again)
    assert not equal(first, other_step)
    assert not equal(first, other_seed)


def test_entropy_is_left_out_when_it_is_not_asked_for(folder):
    with_it, weights, _ = run_update(folder)
    without, same, _ = run_update(folder, objective={"entropy": False})
    assert "entropy" in with_it.record.summary()
    assert "entropy" not in without.record.summary()
    assert equal(weights, same)


def test_the_proximal_log_probs_are_those_of_the_step_s_start(folder):
    """Over two epochs the ratio moves away from 1 against them, and their weights against the engine's stay."""
    sections = {"correction": {"proximal": "recomputed", "weight": "token"}, "batch": {"epochs": 2}}
    made, _, scored = run_update(folder, optimizer={"learning_rate": 0.01}, **sections)
    first, second = np.split(made.record.column("log_weight"), 2)
    np.testing.assert_array_equal(first, second)
    # at the first pass the policy is the proximal one: its ratio to the engine's is the weight
    log_ratio = np.split(made.record.column("log_ratio"), 2)
    np.testing.assert_allclose(log_ratio[0], first, atol=1e-5)
    assert np.abs(log_ratio[1] - second).max() > 0.01
    assert all(one.proximal is None for one in scored)


def test_the_penalty_holds_the_policy_at_its_base(folder):
    """A fresh adapter is its base: the penalty begins at 0, and then pulls back."""
    lora = {"lora_dropout": 0.0001, "batch": {"epochs": 8}, "optimizer": {"learning_rate": 0.03, "clip_norm": 10.0}}
    free, _, _ = run_update(folder, objective={"kl_coefficient": 1e-9}, **lora)
    held, _, _ = run_update(folder, objective={"kl_coefficient": 100.0}, **lora)
    distances = [np.split(made.record.column("base_kl"), 8) for made in (free, held)]
    assert distances[0][0].max() < 1e-4
    assert distances[1][-1].mean() < distances[0][-1].mean() / 3


def test_expert_iteration_trains_on_successes_alone(folder):
    groups = [Group(r.group_id, r.task_id, tuple(r.members)) for r in random_groups(4, groups=2, members=3)]
    scored, dropped = score(groups, "success", 0.0)
    assert {one.trajectory.success for one in scored} == {True}
    assert {one.advantage for one in scored} == {1.0}
    assert set(dropped.values()) == {"no_success"}
    assert len(scored) + len(dropped) == 6


def test_a_step_of_expert_iteration_makes_successes_likelier(folder):
    groups = [Group(r.group_id, r.task_id, tuple(r.members)) for r in random_groups(4, groups=2, members=3)]
    scored, _ = score(groups, "success", 0.0)
    config = LearnerConfig.model_validate(
        {
            "model": {"path": folder, "device": "cpu"},
            "objective": {"advantage": "success", "surrogate": "reinforce"},
            "optimizer": {"learning_rate": 0.01},
            "batch": {"epochs": 3},
        }
    )
    policy = load_policy(config.model, folder, seed=1)
    made = update(
        policy, Optimizer(policy.trainable(), config.optimizer), scored, config, step=1, policy_version=0, seed=1
    )
    passes = np.split(made.record.column("log_ratio"), 3)
    assert passes[0].mean() < passes[1].mean() < passes[2].mean()
    assert not made.record.column("clipped").any()
