import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_building import make_group

from learner.trainer.advantage import group_mean, leave_one_out, normalised, score
from learner.trainer.groups import Group

some_rewards = st.lists(st.floats(0, 1), min_size=2, max_size=16)
few = settings(max_examples=50, deadline=None)


def make_groups(*rewards):
    records = [make_group(f"g{n}", own) for n, own in enumerate(rewards)]
    return [Group(r.group_id, r.task_id, tuple(r.members)) for r in records]


def test_golden_values():
    # others' means: 1/2, 1/2, 3/4, 1/4 for rewards 0, 0, ... worked out by hand
    np.testing.assert_allclose(leave_one_out([1.0, 0.0]), [1.0, -1.0])
    np.testing.assert_allclose(leave_one_out([1.0, 0.5, 0.0]), [0.75, 0.0, -0.75])
    np.testing.assert_allclose(leave_one_out([1.0, 0.0, 0.0, 0.0]), [1.0, -1 / 3, -1 / 3, -1 / 3])
    np.testing.assert_allclose(group_mean([1.0, 0.0, 0.0, 0.0]), [0.75, -0.25, -0.25, -0.25])
    np.testing.assert_allclose(normalised([1.0, 0.0]), [0.70710578, -0.70710578])


@few
@given(some_rewards)
def test_advantages_add_up_to_zero(rewards):
    assert leave_one_out(rewards).sum() == pytest.approx(0, abs=1e-12)


@few
@given(some_rewards, st.floats(-5, 5))
def test_a_reward_that_all_get_changes_nothing(rewards, bonus):
    moved = [reward + bonus for reward in rewards]
    np.testing.assert_allclose(leave_one_out(moved), leave_one_out(rewards), atol=1e-12)


@few
@given(some_rewards, st.randoms(use_true_random=False))
def test_advantages_go_with_their_members(rewards, random):
    order = random.sample(range(len(rewards)), len(rewards))
    np.testing.assert_allclose(leave_one_out([rewards[i] for i in order]), leave_one_out(rewards)[order], atol=1e-13)


@few
@given(some_rewards)
def test_leave_one_out_is_the_group_mean_times_n_over_n_minus_1(rewards):
    n = len(rewards)
    np.testing.assert_allclose(leave_one_out(rewards), group_mean(rewards) * n / (n - 1), atol=1e-13)


@pytest.mark.parametrize("rewards", [[], [1.0], [0.0, float("nan")], [0.0, float("inf")]])
def test_rewards_without_a_baseline_or_not_finite_are_refused(rewards):
    with pytest.raises(ValueError, match=r"two members|not finite"):
        leave_one_out(rewards)


def test_a_group_whose_rewards_are_all_equal_gives_no_signal():
    # 0.1 three times has a float mean that differs from 0.1
    scored, dropped = score(make_groups([0.1, 0.1, 0.1], [0.0, 1.0]), "leave_one_out", 0.0)
    assert [(one.trajectory.trajectory_id, one.advantage) for one in scored] == [("g1.0.0", -1.0), ("g1.1.0", 1.0)]
    assert dropped == {"g0.0.0": "no_signal", "g0.1.0": "no_signal", "g0.2.0": "no_signal"}


def test_a_member_with_too_small_an_advantage_is_passed_over_alone():
    scored, dropped = score(make_groups([1.0, 0.5, 0.0]), "leave_one_out", 0.01)
    assert [one.advantage for one in scored] == [0.75, -0.75]
    assert dropped == {"g0.1.0": "no_signal"}


def test_the_kind_of_advantage_is_the_configured_one():
    groups = make_groups([1.0, 0.0])
    by_kind = {kind: [one.advantage for one in score(groups, kind, 0.0)[0]] for kind in ("leave_one_out", "group_mean")}
    assert by_kind == {"leave_one_out": [1.0, -1.0], "group_mean": [0.5, -0.5]}
