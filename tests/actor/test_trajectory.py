import numpy as np
import pytest
from scripted import make_lease

from actor.episode import Episode, Turn
from actor.trajectory import trajectory_of
from common.wire import decode, encode


def make_episode(ids, turns, **fields):
    return Episode(make_lease("g7.2.1"), list(ids), turns=turns, **fields)


def test_arrays_stand_at_the_sampled_tokens():
    turns = [Turn(2, 4, (-0.5, -1.5), (3, 3)), Turn(6, 7, (-0.25,), (4,))]
    trajectory = trajectory_of(make_episode(range(10, 18), turns), "actor-1")
    assert trajectory.tokens.tolist() == [10, 11, 12, 13, 14, 15, 16, 17]
    assert trajectory.sampled.tolist() == [False, False, True, True, False, False, True, False]
    assert trajectory.log_probs.tolist() == [0, 0, -0.5, -1.5, 0, 0, -0.25, 0]
    assert trajectory.versions.tolist() == [-1, -1, 3, 3, -1, -1, 4, -1]
    assert trajectory.turns.tolist() == [[2, 4], [6, 7]]
    assert trajectory.oldest_version == 3


def test_the_lease_names_the_trajectory():
    trajectory = trajectory_of(make_episode([1, 2], [Turn(1, 2, (-1.0,), (0,))]), "actor-1")
    assert (trajectory.trajectory_id, trajectory.lease.group_id, trajectory.actor) == ("g7.2.1", "g1", "actor-1")


def test_verdict_tags_and_seconds_are_carried():
    episode = make_episode(
        [1, 2],
        [Turn(1, 2, (-1.0,), (0,))],
        tags=["turn_limit"],
        reward=0.75,
        success=False,
        failures=("x" * 900,),
        started_at=1.5,
        seconds=3.0,
        engine_seconds=2.0,
        world_seconds=0.5,
    )
    trajectory = trajectory_of(episode, "actor-1")
    assert (trajectory.reward, trajectory.success, trajectory.tags) == (0.75, False, ("turn_limit",))
    assert (trajectory.started_at, trajectory.seconds) == (1.5, 3.0)
    assert (trajectory.engine_seconds, trajectory.world_seconds) == (2.0, 0.5)
    assert trajectory.failures == ("x" * 500,)


def test_a_trajectory_crosses_the_wire_unchanged():
    trajectory = trajectory_of(make_episode([1, 2, 3], [Turn(1, 3, (-1.0, -0.1), (5, 6))]), "actor-1")
    again = decode(encode(trajectory))
    assert again == trajectory
    np.testing.assert_array_equal(again.log_probs, np.array([0, -1.0, -0.1], np.float32))


def test_an_episode_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="log_prob_bytes"):
        trajectory_of(make_episode([1, 2], [Turn(1, 2, (float("nan"),), (0,))]), "actor-1")
