import numpy as np
import pytest
from trainer_building import make_group, make_trajectory

from learner.gateway.trainer_port import GroupRecord
from learner.trainer.groups import Limits, admit

LIMITS = Limits(policy_version=5, staleness_bound=2, vocabulary=100, context=50)


def test_a_group_within_the_limits_is_kept_whole_and_in_order():
    groups, dropped = admit([make_group("g1", [0.0, 0.5, 1.0], version=4)], LIMITS)
    assert dropped == {}
    assert [(g.group_id, g.task_id, [m.reward for m in g.members]) for g in groups] == [
        ("g1", "task_g1", [0.0, 0.5, 1.0])
    ]


def test_the_oldest_token_decides_whether_a_trajectory_is_stale():
    bound = make_trajectory("g1.0.0", version=[3, 4, 5])
    beyond = make_trajectory("g1.1.0", version=[2, 5, 5])
    fresh = make_trajectory("g1.2.0", version=5)
    groups, dropped = admit([GroupRecord("g1", "t", [bound, beyond, fresh])], LIMITS)
    assert dropped == {"g1.1.0": "stale"}
    assert [m.trajectory_id for m in groups[0].members] == ["g1.0.0", "g1.2.0"]


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("stale", {"version": 2}),
        ("future_version", {"version": [5, 5, 6]}),
        ("invalid_token", {"tokens": (1, 2, 3, 4, 5, 6, 7, 100)}),
        ("too_long", {"tokens": tuple(range(51))}),
        ("no_prompt", {"turns": ((0, 2), (6, 7))}),
        ("temperature", {"temperature": 0.7}),
        ("evaluation", {"purpose": "evaluate"}),
    ],
)
def test_a_trajectory_that_may_not_be_trained_on_is_dropped_with_its_reason(reason, options):
    bad = make_trajectory("g1.0.0", **{"version": 5, **options})
    good = [make_trajectory(f"g1.{k}.0", version=5) for k in (1, 2)]
    groups, dropped = admit([GroupRecord("g1", "t", [bad, *good])], LIMITS)
    assert dropped == {"g1.0.0": reason}
    assert [len(group.members) for group in groups] == [2]


def test_each_context_has_the_models_positions_to_itself():
    options = {"turns": ((30, 31), (70, 72)), "repeats": ((40, 60),), "version": 5}
    members = [make_trajectory(f"g1.{k}.0", tokens=range(80), **options) for k in range(2)]
    assert admit([GroupRecord("g1", "t", members)], LIMITS)[1] == {}
    options["repeats"] = ((60, 65),)
    members = [make_trajectory(f"g1.{k}.0", tokens=range(80), **options) for k in range(2)]
    assert set(admit([GroupRecord("g1", "t", members)], LIMITS)[1].values()) == {"too_long"}


def test_the_last_survivor_of_a_group_has_no_baseline_and_is_dropped():
    members = [make_trajectory("g1.0.0", version=5), make_trajectory("g1.1.0", version=1)]
    groups, dropped = admit([GroupRecord("g1", "t", members)], LIMITS)
    assert groups == []
    assert dropped == {"g1.0.0": "alone", "g1.1.0": "stale"}


def test_an_empty_group_is_passed_over():
    assert admit([GroupRecord("g1", "t", [])], LIMITS) == ([], {})


def test_each_trajectory_is_either_kept_or_dropped():
    rng = np.random.default_rng(0)
    records = [make_group(f"g{n}", [0.0, 1.0, 0.5, 0.5], version=int(rng.integers(7))) for n in range(50)]
    groups, dropped = admit(records, LIMITS)
    kept = [m.trajectory_id for g in groups for m in g.members]
    assert sorted([*kept, *dropped]) == sorted(m.trajectory_id for r in records for m in r.members)
