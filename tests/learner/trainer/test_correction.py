"""Correction's own properties; against its slow twin it is tested in tests/reference."""

import math

import pytest
import torch
from pydantic import ValidationError

from common.config import load
from common.errors import UsageError
from learner.config import LearnerConfig
from learner.trainer.batch import Totals
from learner.trainer.config import CorrectionConfig, ObjectiveConfig
from learner.trainer.correction import correct
from learner.trainer.loss import policy_loss


def correction_of(log_weights, *, trajectories=None, proximal="recomputed", lags=None, **options):
    """Of tokens with behaviour log-prob -1, whose proximal log-probs are `log_weights` above it."""
    behaviour = torch.full((len(log_weights),), -1.0)
    return correct(
        behaviour + 0.25,
        behaviour,
        proximal=behaviour + torch.tensor(log_weights),
        lags=torch.tensor(lags or [0] * len(log_weights)),
        trajectories=torch.tensor(trajectories or [0] * len(log_weights)),
        config=CorrectionConfig(proximal=proximal, **options),
    )


def test_by_default_the_ratio_is_against_the_behaviour_and_nothing_is_weighed_or_masked():
    made = correction_of([3.0, -3.0], proximal="behaviour")
    assert made.anchor.tolist() == [-1.0, -1.0]
    assert made.weight is None
    assert made.kept is None


def test_weights_are_cut_at_the_cap_by_token():
    made = correction_of([math.log(1.5), math.log(8.0), math.log(0.1)], weight="token", weight_cap=2.0)
    torch.testing.assert_close(made.weight, torch.tensor([1.5, 2.0, 0.1]))


def test_a_trajectorys_weight_is_the_product_of_its_tokens_cut_once():
    log2 = math.log(2)
    made = correction_of([log2, -log2, log2, log2], trajectories=[0, 0, 1, 1], weight="trajectory", weight_cap=3.0)
    torch.testing.assert_close(made.weight, torch.tensor([1.0, 1.0, 3.0, 3.0]))


def test_a_product_that_overflows_is_cut_and_stays_finite():
    made = correction_of([60.0] * 4, weight="trajectory", weight_cap=5.0)
    torch.testing.assert_close(made.weight, torch.tensor([5.0] * 4))


def test_the_band_drops_tokens_and_leaves_their_siblings():
    made = correction_of([0.0, 1.0, -1.0], reject="band", reject_low=0.5, reject_high=2.0)
    assert made.kept.tolist() == [True, False, False]


def test_the_geometric_mask_drops_a_trajectory_whose_tokens_drift_together():
    drift, noise = [0.2] * 4, [1.0, -1.0, 1.0, -1.0]
    made = correction_of(
        drift + noise, trajectories=[0] * 4 + [1] * 4, reject="geometric", reject_low=0.9, reject_high=1.1
    )
    assert made.kept.tolist() == [False] * 4 + [True] * 4


def test_the_trust_region_drops_a_whole_trajectory_for_one_token():
    made = correction_of([0.1, -2.5, 0.1, 0.1], trajectories=[0, 0, 0, 1], reject="trust_region", reject_above=2.0)
    assert made.kept.tolist() == [False, False, False, True]


def test_the_interpolated_anchor_is_the_policy_without_lag_and_the_behaviour_at_lag_1():
    made = correction_of([9.0] * 3, proximal="interpolated", lags=[0, 1, 5])
    torch.testing.assert_close(made.anchor, torch.tensor([-0.75, -1.0, -0.8]))


def test_recomputed_without_log_probs_is_a_programmers_error():
    ones = torch.ones(2)
    zeros = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="no log-probs were recomputed"):
        correct(
            ones, ones, proximal=None, lags=zeros, trajectories=zeros, config=CorrectionConfig(proximal="recomputed")
        )


def test_a_rejected_token_whose_ratio_is_infinite_spoils_nothing():
    """0 times infinity would be no gradient at all."""
    log_probs = torch.tensor([-1.0, -1.0], requires_grad=True)
    behaviour = torch.tensor([-1.0, -1000.0])
    zeros = torch.zeros(2, dtype=torch.int64)
    made = correct(
        log_probs, behaviour, proximal=None, lags=zeros, trajectories=zeros, config=CorrectionConfig(reject="band")
    )
    share = policy_loss(
        log_probs,
        behaviour,
        advantages=torch.tensor([-1.0, -1.0]),
        turns=zeros,
        trajectories=zeros,
        totals=Totals(trajectories=1, turns=1, tokens=2),
        objective=ObjectiveConfig(),
        correction=made,
    )
    share.loss.backward()
    assert share.loss.item() == pytest.approx(0.5)
    assert log_probs.grad.tolist() == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"correction": {"weight": "token"}}, "would correct twice"),
        ({"objective": {"kl_coefficient": 0.1}}, "needs model.training: lora"),
        (
            {"objective": {"surrogate": "reinforce"}, "correction": {"proximal": "recomputed"}},
            "reinforce has no ratio; set correction.weight",
        ),
        (
            {"objective": {"ratio": "turn"}, "correction": {"proximal": "recomputed", "weight": "token"}},
            "needs objective.ratio: token, not turn",
        ),
        ({"objective": {"ratio": "trajectory"}, "correction": {"reject": "band"}}, "needs objective.ratio: token"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(sections, says):
    with pytest.raises(ValidationError, match=says):
        LearnerConfig.model_validate(sections)


def test_a_contradiction_is_told_in_one_line_without_all_the_rest():
    with pytest.raises(UsageError) as caught:
        load({"learner": LearnerConfig}, None, ["--learner.correction.weight", "token"])
    assert str(caught.value).startswith("learner: correction.weight would correct twice: the clipped ratio is")
    assert "got" not in str(caught.value)
