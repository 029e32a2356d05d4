"""TGC, SGC and their intervals, by difficulty and scenario."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from common.evaluation import Scored, label_of, parts_of, resampled, summarise, wilson


def scored(
    task_id: str, *, success: bool, reward: float = 0.5, member: int = 0, version: int = 3, **more: int
) -> Scored:
    return Scored(task_id, member, 1.0 if success else reward, success, version, **more)


def test_tgc_counts_tasks_and_sgc_scenarios_all_of_whose_tasks_pass():
    result = summarise(
        [
            scored("a_1", success=True),
            scored("a_2", success=True),
            scored("b_1", success=True),
            scored("b_2", success=False),
        ]
    )
    assert result["tgc"] == 0.75
    assert result["sgc"] == 0.5
    assert result["mean_reward"] == 0.875
    shares = {"tgc": 0.5, "sgc": 0.0, "mean_reward": 0.75, "tasks": 2, "tgc_wilson": wilson(0.5, 2)}
    assert result["by_scenario"]["b"] == shares
    assert "by_difficulty" not in result
    assert (result["tasks"], result["policy_version"]) == (4, 3)


def test_sgc_of_several_rollouts_is_their_mean():
    result = summarise(
        [
            scored("a_1", success=True, member=0),
            scored("a_2", success=True, member=0),
            scored("a_1", success=True, member=1),
            scored("a_2", success=False, member=1),
        ]
    )
    assert (result["tgc"], result["sgc"], result["tasks"], result["episodes"]) == (0.75, 0.5, 2, 4)


def test_an_evaluation_without_episodes_is_zero_of_nothing():
    result = summarise([])
    assert (result["tasks"], result["tgc"], result["sgc"], result["by_scenario"]) == (0, 0.0, 0.0, {})
    assert (result["tgc_interval"], result["sgc_wilson"]) == ([0.0, 1.0], [0.0, 1.0])


def test_a_task_whose_rollout_was_lost_counts_as_much_as_any_other():
    episodes = [scored("a_1", success=True, member=0), scored("a_1", success=True, member=1)]
    assert summarise([*episodes, scored("b_1", success=False)])["tgc"] == 0.5


def test_the_oldest_and_the_newest_version_that_sampled_are_told():
    result = summarise([scored("a_1", success=True, version=3), scored("a_2", success=True, newest_version=7)])
    assert (result["policy_version"], result["newest_version"]) == (3, 7)


def test_difficulties_are_told_apart_where_they_are_known():
    result = summarise(
        [
            scored("a_1", success=True, difficulty=1),
            scored("a_2", success=True, difficulty=1),
            scored("b_1", success=False, difficulty=3),
        ]
    )
    easy, hard = result["by_difficulty"]["1"], result["by_difficulty"]["3"]
    assert (easy["tgc"], easy["sgc"], easy["tasks"], easy["scenarios"]) == (1.0, 1.0, 2, 1)
    assert (hard["tgc"], hard["tasks"]) == (0.0, 1)


def by_hand(groups: list[list[bool]], draws: int = 4000) -> tuple[float, float]:
    """The same percentiles, drawn slowly with another generator."""
    generator = random.Random(7)
    shares = sorted(
        fmean(one for group in generator.choices(groups, k=len(groups)) for one in group) for _ in range(draws)
    )
    return shares[int(0.025 * draws)], shares[int(0.975 * draws)]


def test_the_interval_draws_whole_scenarios():
    """Ten scenarios of three tasks that pass or fail together are ten draws, not thirty."""
    groups = [[number < 5] * 3 for number in range(10)]
    result = summarise(
        [
            scored(f"s{number}_{task}", success=success)
            for number, group in enumerate(groups)
            for task, success in enumerate(group)
        ]
    )
    low, high = result["tgc_interval"]
    slow_low, slow_high = by_hand(groups)
    assert low == pytest.approx(slow_low, abs=0.02)
    assert high == pytest.approx(slow_high, abs=0.02)
    plain_low, plain_high = result["tgc_wilson"]
    assert high - low > 1.4 * (plain_high - plain_low)


def test_an_interval_of_unequal_scenarios_weighs_tasks_and_repeats():
    groups = [[True] * 6, [False], [True, False], [False, False, True]]
    sums, counts = [float(sum(group)) for group in groups], [len(group) for group in groups]
    assert resampled(sums, counts) == resampled(sums, counts)
    assert resampled(sums, counts) == pytest.approx(by_hand(groups), abs=0.04)


def test_wilsons_interval_is_the_one_of_the_textbook():
    assert wilson(0.0, 10) == pytest.approx([0.0, 0.27753], abs=1e-5)
    assert wilson(0.5, 10) == pytest.approx([0.23659, 0.76341], abs=1e-5)
    assert wilson(1.0, 0) == [0.0, 1.0]


@pytest.mark.parametrize("parts", [("before", 0.0, ""), ("after", 0.7, "test_challenge"), ("after", 1e-5, "e-05")])
def test_a_label_says_its_parts(parts: tuple[str, float, str]):
    when, temperature, tasks = parts
    assert parts_of(label_of(*parts)) == (when, f"{temperature:g}", tasks)


def test_what_is_no_label_of_before_or_after_has_no_parts():
    assert parts_of("dev.v12") is None
