"""The fast advantage, loss and diagnostics against their slow float64 twins, on random rollouts."""

import itertools

import loop_objective as slow
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rollouts import random_rollouts, without_proximal

from learner.trainer.advantage import leave_one_out, normalised
from learner.trainer.batch import Totals
from learner.trainer.config import ObjectiveConfig
from learner.trainer.diagnostics import figures
from learner.trainer.loss import clip_bounds, policy_loss

few = settings(max_examples=25, deadline=None)  # the machine may be busy: no time is asserted

LEVELS = ("token", "turn", "trajectory")
AGGREGATIONS = ("trajectory_mean", "unit_mean", "constant")


def as_tensors(rollouts, advantages, dtype=torch.float64):
    """What `policy_loss` takes."""
    rows, turn_number = [], itertools.count()
    for index, rollout in enumerate(rollouts):
        for turn in rollout:
            number = next(turn_number)
            rows += [(log_pi, log_mu, advantages[index], number, index) for log_pi, log_mu in turn]
    log_pi, log_mu, advantage, turns, trajectories = zip(*rows, strict=True)
    totals = Totals(trajectories=len(rollouts), turns=next(turn_number), tokens=len(rows))
    return (
        torch.tensor(log_pi, dtype=dtype, requires_grad=True),
        torch.tensor(log_mu, dtype=dtype),
        {
            "advantages": torch.tensor(advantage, dtype=dtype),
            "turns": torch.tensor(turns),
            "trajectories": torch.tensor(trajectories),
            "totals": totals,
        },
    )


@few
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_the_leave_one_out_advantage_is_the_twins(rewards):
    np.testing.assert_allclose(leave_one_out(rewards), slow.leave_one_out(rewards), rtol=0, atol=1e-14)


@few
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_the_normalised_advantage_is_the_twins(rewards):
    np.testing.assert_allclose(normalised(rewards), slow.normalised(rewards), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("form", ["symmetric", "reciprocal"])
@pytest.mark.parametrize("higher", [None, 0.35])
@few
@given(seed=st.integers(0, 10**6))
def test_loss_and_gradient_are_the_twins(level, aggregation, form, higher, seed):
    rollouts, advantages = without_proximal(*random_rollouts(seed))
    config = ObjectiveConfig(
        ratio=level, aggregation=aggregation, clip=0.2, clip_form=form, clip_higher=higher, divisor=7.0
    )
    low, high = clip_bounds(config)
    how = {"level": level, "low": low, "high": high, "aggregation": aggregation, "divisor": 7.0}
    log_probs, behaviour, rest = as_tensors(rollouts, advantages)
    made = policy_loss(log_probs, behaviour, **rest, objective=config)
    made.loss.backward()
    assert made.loss.item() == pytest.approx(slow.loss(rollouts, advantages, **how), rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(log_probs.grad.numpy(), slow.gradient(rollouts, advantages, **how), rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(made.log_ratio.numpy(), (log_probs.detach() - behaviour).numpy())


@pytest.mark.parametrize("level", LEVELS)
@few
@given(seed=st.integers(0, 10**6))
def test_a_clipped_token_is_one_without_gradient(level, seed):
    rollouts, advantages = without_proximal(*random_rollouts(seed, spread=0.5))
    log_probs, behaviour, rest = as_tensors(rollouts, advantages)
    made = policy_loss(log_probs, behaviour, **rest, objective=ObjectiveConfig(ratio=level, clip=0.2))
    made.loss.backward()
    np.testing.assert_array_equal(made.clipped.numpy(), log_probs.grad.numpy() == 0)


@few
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=30))
def test_the_diagnostics_are_the_twins(log_ratio):
    made = figures({"log_ratio": np.array(log_ratio), "clipped": np.zeros(len(log_ratio), np.bool_)})
    expected = slow.ratio_figures(log_ratio)
    assert {name: made[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)
