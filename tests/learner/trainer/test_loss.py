"""The objective's own properties; against its slow twin it is tested in tests/reference."""

import pytest
import torch

from learner.trainer.batch import Totals
from learner.trainer.config import ObjectiveConfig
from learner.trainer.loss import clip_bounds, policy_loss


def loss_of(log_probs, behaviour, advantages, *, turns=None, trajectories=None, **objective):
    """The loss of one trajectory of one turn, unless told otherwise."""
    log_probs = torch.tensor(log_probs, requires_grad=True)
    turns = torch.tensor(turns or [0] * len(log_probs))
    trajectories = torch.tensor(trajectories or [0] * len(log_probs))
    totals = Totals(trajectories=int(trajectories[-1]) + 1, turns=int(turns[-1]) + 1, tokens=len(log_probs))
    made = policy_loss(
        log_probs,
        torch.tensor(behaviour),
        advantages=torch.tensor(advantages),
        turns=turns,
        trajectories=trajectories,
        totals=totals,
        objective=ObjectiveConfig(**objective),
    )
    made.loss.backward()
    return made, log_probs.grad


def test_on_policy_its_gradient_is_reinforce_with_the_advantage():
    made, gradient = loss_of([-1.0, -2.0, -3.0, -0.5], [-1.0, -2.0, -3.0, -0.5], [2.0, 2.0, -1.0, -1.0])
    torch.testing.assert_close(gradient, -torch.tensor([2.0, 2.0, -1.0, -1.0]) / 4)
    assert made.loss.item() == pytest.approx(-0.5)
    assert not made.clipped.any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "surrogate", "has_gradient"),
    [(1.5, 1.0, 1.2, False), (1.5, -1.0, -1.5, True), (0.5, 1.0, 0.5, True), (0.5, -1.0, -0.8, False)],
)
def test_the_clip_takes_the_worse_of_both(ratio, advantage, surrogate, has_gradient):
    log_ratio = torch.log(torch.tensor(ratio)).item()
    made, gradient = loss_of([-2.0 + log_ratio], [-2.0], [advantage], clip=0.2)
    assert made.loss.item() == pytest.approx(-surrogate, rel=1e-6)
    assert (gradient.item() != 0) == has_gradient
    assert made.clipped.item() != has_gradient


def test_the_bounds_of_each_form():
    assert clip_bounds(ObjectiveConfig(clip=0.25)) == (0.75, 1.25)
    assert clip_bounds(ObjectiveConfig(clip=0.25, clip_form="reciprocal")) == (0.8, 1.25)
    assert clip_bounds(ObjectiveConfig(clip=0.25, clip_higher=0.5)) == (0.75, 1.5)


def test_levels_differ_where_ratios_of_opposite_sign_cancel():
    """Two tokens with ratios 2 and 1/2: clipped one by one, but their product is 1."""
    pi, mu = [-1.0 + 0.6931472, -1.0 - 0.6931472], [-1.0, -1.0]
    by_token, _ = loss_of(pi, mu, [1.0, 1.0], ratio="token", clip=0.2)
    by_trajectory, _ = loss_of(pi, mu, [1.0, 1.0], ratio="trajectory", clip=0.2)
    by_turn, _ = loss_of(pi, mu, [1.0, 1.0], turns=[0, 1], ratio="turn", clip=0.2)
    assert by_token.loss.item() == pytest.approx(-(1.2 + 0.5) / 2)
    assert by_trajectory.loss.item() == pytest.approx(-1.0)
    assert by_turn.loss.item() == pytest.approx(by_token.loss.item())


def test_aggregations_weigh_a_long_and_a_short_trajectory_as_they_say():
    """Three tokens with advantage 1, one with advantage -1, ratios 1."""
    options = {"turns": [0, 0, 0, 1], "trajectories": [0, 0, 0, 1]}
    expected = {"unit_mean": -(3 - 1) / 4, "trajectory_mean": 0.0, "constant": 0.0}
    for aggregation, value in expected.items():
        made, gradient = loss_of([-1.0] * 4, [-1.0] * 4, [1.0, 1.0, 1.0, -1.0], aggregation=aggregation, **options)
        assert made.loss.item() == pytest.approx(value)
    # `constant` divides by 32, however many trajectories there are
    torch.testing.assert_close(gradient, -torch.tensor([1 / 3, 1 / 3, 1 / 3, -1.0]) / 32)


def test_behaviour_log_probs_that_differ_give_ratios_that_differ():
    """Taken from the learner's own forward, the ratio would be 1 always and the clip inert."""
    made, _ = loss_of([-1.0, -2.0], [-1.5, -1.0], [1.0, 1.0])
    torch.testing.assert_close(made.log_ratio, torch.tensor([0.5, -1.0]))


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ValueError, match="must agree"):
        loss_of([-1.0, -2.0], [-1.0, -2.0], [1.0])
