import asyncio

import pytest
from scripted import NO_CODE, STOP, CharacterPrompt, ScriptedPolicy, ScriptedWorlds, letters, make_lease, turn

from actor.engine import EngineFailure, RequestFailure
from actor.episode import run_episode
from actor.world.client import Observation
from actor.world.grader import Verdict, WorldFailure

DONE = Observation("done", failed=False, completed=True)


def run(policy, worlds, lease=None, longest=1000):
    return asyncio.run(run_episode(lease or make_lease(), policy, worlds, CharacterPrompt(), longest))


def test_tokens_are_the_opening_then_turns_and_observations_as_they_came():
    policy = ScriptedPolicy([turn(*letters("a"), STOP), turn(*letters("b"), STOP)])
    worlds = ScriptedWorlds(["ok", DONE])
    episode = run(policy, worlds)
    first, second = [*letters("a"), STOP], [*letters("b"), STOP]
    assert episode.ids == [1, 2, 3, *first, 7, *letters("ok"), 8, *second]
    assert [(t.begin, t.end) for t in episode.turns] == [(3, 5), (9, 11)]
    assert [t.log_probs for t in episode.turns] == [(-0.5, -1.0), (-0.5, -1.0)]
    assert worlds.executed == ["a", "b"]
    # each turn is sampled after exactly the tokens so far
    assert [asked[0] for asked in policy.asked] == [[1, 2, 3], [1, 2, 3, *first, 7, *letters("ok"), 8]]


def test_completing_the_task_ends_the_episode_with_its_verdict():
    worlds = ScriptedWorlds([DONE], verdict=Verdict(1.0, True, ("a", "b"), ()))
    episode = run(ScriptedPolicy([turn(*letters("x"), STOP)]), worlds)
    assert (episode.reward, episode.success, episode.failures, episode.tags) == (1.0, True, (), ["completed"])
    assert (worlds.graded, worlds.closed) == (1, 1)


def test_the_turn_limit_ends_the_episode_graded_as_it_stands_and_without_a_last_observation():
    turns = [turn(*letters("a"), STOP), turn(*letters("b"), STOP)]
    worlds = ScriptedWorlds(["one", "two"])
    episode = run(ScriptedPolicy(turns), worlds, make_lease(max_turns=2))
    assert episode.tags == ["turn_limit"]
    assert episode.ids[-2:] == [*letters("b"), STOP]
    assert (episode.reward, worlds.graded) == (0.5, 1)


def test_a_turn_cut_by_its_token_limit_is_executed_and_the_episode_goes_on():
    policy = ScriptedPolicy([turn(*letters("abcdefgh"), finish="length"), turn(*letters("x"), STOP)])
    worlds = ScriptedWorlds(["cut", DONE])
    episode = run(policy, worlds, make_lease(max_turn_tokens=8))
    assert worlds.executed == ["abcdefgh", "x"]
    assert episode.tags == ["token_limit", "completed"]
    # the stop token that the policy did not sample stands outside of the sampled span
    assert episode.turns[0].end == 11
    assert episode.ids[11] == STOP


def test_a_turn_cut_by_the_context_limit_ends_the_episode_and_is_not_executed():
    policy = ScriptedPolicy([turn(*letters("abcdefg"), finish="length")])
    worlds = ScriptedWorlds([])
    episode = run(policy, worlds, make_lease(max_turn_tokens=8, max_context_tokens=16), longest=10)
    assert policy.asked[0][2] == 7
    assert (episode.tags, worlds.executed, worlds.graded) == (["context_limit"], [], 1)


def test_an_observation_without_room_for_a_turn_after_it_ends_the_episode():
    worlds = ScriptedWorlds(["a long observation"])
    episode = run(ScriptedPolicy([turn(*letters("a"), STOP)]), worlds, make_lease(max_context_tokens=24))
    assert episode.tags == ["context_limit"]
    assert len(episode.ids) == 5


def test_the_engines_longest_sequence_bounds_an_episode_like_its_lease():
    policy = ScriptedPolicy([turn(*letters("a"), STOP)])
    run(policy, ScriptedWorlds([DONE]), make_lease(max_turn_tokens=100, max_context_tokens=200), longest=50)
    assert policy.asked[0][2] == 47


def test_a_turn_without_code_gets_an_observation_that_says_so():
    policy = ScriptedPolicy([turn(STOP), turn(*letters("x"), STOP)])
    worlds = ScriptedWorlds([DONE])
    episode = run(policy, worlds)
    assert worlds.executed == ["x"]
    assert episode.tags == ["no_code", "completed"]
    assert episode.ids[4:-2] == [7, *letters(NO_CODE), 8]


def test_a_killed_cell_ends_the_episode_which_is_the_policys_own_doing_and_graded():
    killed = Observation("timed out", failed=True, completed=False, killed="time")
    worlds = ScriptedWorlds([killed])
    episode = run(ScriptedPolicy([turn(*letters("x"), STOP)]), worlds)
    assert (episode.tags, worlds.graded, episode.reward) == (["killed_by_time", "killed"], 1, 0.5)


def test_an_episode_goes_on_after_a_killed_cell_when_its_world_does():
    killed = Observation("timed out", failed=True, completed=False, killed="time", goes_on=True)
    worlds = ScriptedWorlds([killed, DONE])
    episode = run(ScriptedPolicy([turn(*letters("x"), STOP), turn(*letters("y"), STOP)]), worlds)
    assert worlds.executed == ["x", "y"]
    assert episode.tags == ["killed_by_time", "completed"]


def test_a_turn_with_two_versions_is_tagged():
    policy = ScriptedPolicy([turn(*letters("x"), STOP, versions=[3, 4])])
    episode = run(policy, ScriptedWorlds([DONE]))
    assert episode.turns[0].versions == (3, 4)
    assert "several_versions" in episode.tags


def test_a_turn_that_kept_its_cache_over_a_swap_is_tagged():
    crossing = turn(*letters("x"), STOP, versions=[3, 4])
    crossing.kept_cache = True
    policy = ScriptedPolicy([crossing, turn(*letters("y"), STOP, version=4)])
    assert run(policy, ScriptedWorlds(["seen", DONE])).tags == ["several_versions", "kept_cache", "completed"]


def test_an_episode_samples_with_the_version_that_it_was_given():
    policy = ScriptedPolicy([turn(*letters("x"), STOP)], pinned=12)
    run(policy, ScriptedWorlds([DONE]))
    assert policy.asked[0][3] == 12


def test_engine_seconds_are_those_of_its_turns():
    policy = ScriptedPolicy([turn(*letters("a"), STOP), turn(*letters("b"), STOP)])
    assert run(policy, ScriptedWorlds(["ok", DONE])).engine_seconds == 0.5


@pytest.mark.parametrize("failure", [WorldFailure("broke down"), RuntimeError("a defect")])
def test_a_world_that_breaks_down_gives_no_reward_and_is_closed(failure):
    worlds = ScriptedWorlds([failure])
    with pytest.raises(type(failure)):
        run(ScriptedPolicy([turn(*letters("x"), STOP)]), worlds)
    assert (worlds.closed, worlds.graded) == (1, 0)


def test_a_grader_that_breaks_down_gives_no_reward():
    worlds = ScriptedWorlds([DONE], verdict=WorldFailure("grader"))
    with pytest.raises(WorldFailure):
        run(ScriptedPolicy([turn(*letters("x"), STOP)]), worlds)
    assert worlds.closed == 1


@pytest.mark.parametrize("failure", [EngineFailure("dead"), RequestFailure("refused")])
def test_an_engine_that_fails_gives_no_reward_and_the_world_is_closed(failure):
    worlds = ScriptedWorlds([])
    with pytest.raises(type(failure)):
        run(ScriptedPolicy([failure]), worlds)
    assert (worlds.closed, worlds.graded) == (1, 0)
