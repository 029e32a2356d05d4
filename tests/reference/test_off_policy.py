"""Correction, REINFORCE and GRPO's penalty against their slow float64 twins, on random rollouts."""

import itertools

import loop_objective as slow
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rollouts import random_rollouts

from learner.trainer.batch import Totals
from learner.trainer.config import CorrectionConfig, ObjectiveConfig
from learner.trainer.correction import correct, interpolated
from learner.trainer.loss import clip_bounds, policy_loss

few = settings(max_examples=20, deadline=None)  # the machine may be busy: no time is asserted
AGGREGATIONS = ("trajectory_mean", "unit_mean", "constant")
LEVELS = ("token", "turn", "trajectory")


class Case:
    """Rollouts as tensors [S], with what `policy_loss` and `correct` take."""

    def __init__(self, rollouts, advantages):
        rows, turn_number = [], itertools.count()
        for index, rollout in enumerate(rollouts):
            for turn in rollout:
                number = next(turn_number)
                rows += [(*token, advantages[index], number, index) for token in turn]
        log_pi, log_mu, log_prox, advantage, turns, trajectories = zip(*rows, strict=True)
        self.log_probs = torch.tensor(log_pi, dtype=torch.float64, requires_grad=True)
        self.behaviour = torch.tensor(log_mu, dtype=torch.float64)
        self.proximal = torch.tensor(log_prox, dtype=torch.float64)
        self.turns, self.trajectories = torch.tensor(turns), torch.tensor(trajectories)
        self.advantages = torch.tensor(advantage, dtype=torch.float64)
        self.totals = Totals(trajectories=len(rollouts), turns=next(turn_number), tokens=len(rows))

    def loss(self, objective, correction=None, reference=None):
        made = None
        if correction is not None:
            made = correct(
                self.log_probs,
                self.behaviour,
                proximal=self.proximal,
                lags=torch.ones_like(self.turns),
                trajectories=self.trajectories,
                config=correction,
            )
        share = policy_loss(
            self.log_probs,
            self.behaviour,
            advantages=self.advantages,
            turns=self.turns,
            trajectories=self.trajectories,
            totals=self.totals,
            objective=objective,
            correction=made,
            reference=reference,
        )
        share.loss.backward()
        return share


def test_by_hand_a_weight_a_ratio_and_their_product():
    """mu = 1/2, prox = 1/4 and pi = 3/8: w = 1/2, r = 3/2, clipped at 1.2, A = 1: the loss is -0.6, flat."""
    case = Case([[[(np.log(3 / 8), np.log(1 / 2), np.log(1 / 4))]]], [1.0])
    share = case.loss(ObjectiveConfig(clip=0.2), CorrectionConfig(proximal="recomputed", weight="token"))
    assert share.loss.item() == pytest.approx(-0.6, rel=1e-12)
    assert case.log_probs.grad.item() == 0
    assert share.clipped.item()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("weight", ["token", "trajectory"])
@few
@given(seed=st.integers(0, 10**6))
def test_decoupled_ppo_with_truncated_weights_is_the_twins(aggregation, weight, seed):
    rollouts, advantages = random_rollouts(seed)
    objective = ObjectiveConfig(clip=0.2, aggregation=aggregation, divisor=7.0)
    low, high = clip_bounds(objective)
    share = Case(rollouts, advantages).loss(
        objective, CorrectionConfig(proximal="recomputed", weight=weight, weight_cap=1.3)
    )
    expected = slow.decoupled(
        rollouts,
        advantages,
        low=low,
        high=high,
        aggregation=aggregation,
        divisor=7.0,
        weigh=lambda weights: slow.truncated(weights, weight, 1.3),
    )
    assert share.loss.item() == pytest.approx(expected, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(
    ("kind", "bounds"),
    [
        ("band", {"low": 0.8, "high": 1.25}),
        ("geometric", {"low": 0.9, "high": 1.1}),
        ("trust_region", {"above": 0.6}),
    ],
)
@few
@given(seed=st.integers(0, 10**6))
def test_what_a_mask_rejects_is_the_twins_and_has_no_gradient(aggregation, kind, bounds, seed):
    rollouts, advantages = random_rollouts(seed)
    objective = ObjectiveConfig(clip=0.2, aggregation=aggregation, divisor=7.0)
    low, high = clip_bounds(objective)
    correction = CorrectionConfig(
        proximal="recomputed", reject=kind, **{f"reject_{name}": value for name, value in bounds.items()}
    )
    case = Case(rollouts, advantages)
    share = case.loss(objective, correction)
    how = {"low": low, "high": high, "aggregation": aggregation, "divisor": 7.0}
    expected = slow.decoupled(rollouts, advantages, mask=lambda weights: slow.kept(weights, kind, **bounds), **how)
    assert share.loss.item() == pytest.approx(expected, rel=1e-11, abs=1e-11)
    rejected = [not keep for rollout in rollouts for keep in slow.kept(slow.importance(rollout), kind, **bounds)]
    assert (case.log_probs.grad[torch.tensor(rejected)] == 0).all()


@few
@given(seed=st.integers(0, 10**6))
def test_without_proximal_policy_a_mask_looks_at_the_ratio_itself(seed):
    rollouts, advantages = random_rollouts(seed)
    against_behaviour = [[[(pi, mu, pi) for pi, mu, _ in turn] for turn in rollout] for rollout in rollouts]
    objective = ObjectiveConfig(clip=0.2)
    low, high = clip_bounds(objective)
    case = Case(rollouts, advantages)
    share = case.loss(objective, CorrectionConfig(reject="band", reject_low=0.7, reject_high=1.4))
    terms = []
    for rollout, advantage in zip(against_behaviour, advantages, strict=True):
        keep = slow.kept(slow.importance(rollout), "band", low=0.7, high=1.4)
        pairs = [(pi, mu) for turn in rollout for pi, mu, _ in turn]
        terms.append(
            [slow.term([pair], advantage, low, high) if k else 0.0 for pair, k in zip(pairs, keep, strict=True)]
        )
    assert share.loss.item() == pytest.approx(-slow.aggregate(terms, "unit_mean"), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@few
@given(seed=st.integers(0, 10**6))
def test_reinforce_is_the_twins_and_the_gradient_of_the_clipped_ratio_on_policy(level, aggregation, seed):
    rollouts, advantages = random_rollouts(seed)
    on_policy = [[[(mu, mu, mu) for _, mu, _ in turn] for turn in rollout] for rollout in rollouts]
    pairs = [[[(mu, mu) for _, mu, _ in turn] for turn in rollout] for rollout in rollouts]
    options = {"ratio": level, "aggregation": aggregation, "divisor": 7.0}
    rloo, loop = Case(on_policy, advantages), Case(on_policy, advantages)
    share = rloo.loss(ObjectiveConfig(surrogate="reinforce", **options))
    loop.loss(ObjectiveConfig(surrogate="clip", **options))
    expected = slow.reinforce(pairs, advantages, level=level, aggregation=aggregation, divisor=7.0)
    assert share.loss.item() == pytest.approx(expected, rel=1e-11, abs=1e-11)
    torch.testing.assert_close(rloo.log_probs.grad, loop.log_probs.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@few
@given(seed=st.integers(0, 10**6))
def test_grpos_penalty_is_the_twins(aggregation, seed):
    rollouts, advantages = random_rollouts(seed)
    case = Case(rollouts, advantages)
    options = {"aggregation": aggregation, "divisor": 7.0}
    with_penalty = case.loss(ObjectiveConfig(kl_coefficient=0.3, **options), reference=case.proximal)
    without = Case(rollouts, advantages).loss(ObjectiveConfig(**options))
    log_pi = [[pi for turn in rollout for pi, _, _ in turn] for rollout in rollouts]
    base = [[prox for turn in rollout for _, _, prox in turn] for rollout in rollouts]
    expected = without.loss.item() + 0.3 * slow.penalty(log_pi, base, **options)
    assert with_penalty.loss.item() == pytest.approx(expected, rel=1e-11, abs=1e-11)


@few
@given(st.lists(st.tuples(st.floats(-5, 0), st.floats(-5, 0), st.integers(0, 9)), min_size=1, max_size=9))
def test_the_interpolated_policy_is_the_twins(tokens):
    log_pi, log_mu, lags = (torch.tensor(column) for column in zip(*tokens, strict=True))
    made = interpolated(log_pi.double(), log_mu.double(), lags)
    expected = [slow.interpolated(float(p), float(m), int(lag)) for p, m, lag in zip(log_pi, log_mu, lags, strict=True)]
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-12, atol=1e-12)
