from __future__ import annotations

from learner.gateway.evaluation import summarise
from learner.gateway.ledger import Scored


def scored(task_id: str, *, success: bool, reward: float = 0.5, member: int = 0, version: int = 3) -> Scored:
    return Scored(task_id, member, 1.0 if success else reward, success, version)


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
    assert result["by_scenario"]["b"] == {"tgc": 0.5, "mean_reward": 0.75, "tasks": 2}
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
