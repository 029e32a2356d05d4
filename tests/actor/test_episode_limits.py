"""The limits of an episode: its context, with stubs, the tokens sampled in it, and its time."""

import asyncio
from dataclasses import replace

from scripted import STOP, CharacterPrompt, ScriptedPolicy, ScriptedWorlds, letters, make_lease, turn

from actor.episode import run_episode
from actor.trajectory import trajectory_of
from actor.world.client import Observation

DONE = Observation("done", failed=False, completed=True)


class StubbingPrompt(CharacterPrompt):
    freed_share = 0.5


def run(policy, worlds, *, prompt=None, **limits):
    lease = make_lease(
        max_turns=9, **{n: limits.pop(n) for n in ("max_turn_tokens", "max_context_tokens") if n in limits}
    )
    lease = lease.model_copy(update={"sampling": lease.sampling.model_copy(update=limits)})
    return asyncio.run(run_episode(lease, policy, worlds, prompt or CharacterPrompt(), 1000))


def says(*texts):
    return ScriptedPolicy([turn(*letters(text), STOP) for text in texts])


def shown(text):
    return [7, *letters(text), 8]


def test_a_full_context_goes_on_with_stubs_in_the_place_of_the_oldest_observations():
    policy, worlds = says("a", "b", "c", "d"), ScriptedWorlds(["x" * 12, "y" * 12, "z" * 12, DONE])
    episode = run(policy, worlds, prompt=StubbingPrompt(), max_context_tokens=44, max_turn_tokens=4)
    said = [[*letters(text), STOP] for text in "abcd"]
    first = [1, 2, 3, *said[0], *shown("x" * 12), *said[1], *shown("y" * 12), *said[2]]
    again = [1, 2, 3, *said[0], 7, 9, 8, *said[1], 7, 9, 8, *said[2]]
    assert episode.ids == [*first, *again, *shown("z" * 12), *said[3]]
    assert policy.asked[3][0] == [*again, *shown("z" * 12)]
    assert episode.repeats == [(len(first), len(first) + len(again))]
    assert episode.tags == ["stubs", "completed"]
    trajectory = trajectory_of(episode, "actor-0")
    tokens, turns = trajectory.transcript
    assert tokens.tolist() == [*first, *shown("z" * 12), *said[3]], "what was shown, once"
    assert [tokens[begin:end].tolist() for begin, end in turns] == said


def test_an_episode_that_stubs_do_not_make_room_for_ends_as_context_limit():
    policy, worlds = says("aaaaaa", "bbbbbb", "cccccc"), ScriptedWorlds(["x" * 8, "y" * 8, "z"])
    episode = run(policy, worlds, prompt=StubbingPrompt(), max_context_tokens=32, max_turn_tokens=8)
    assert (episode.tags[-1], worlds.graded) == ("context_limit", 1)


def test_a_context_in_which_nothing_was_sampled_is_no_part_of_the_trajectory():
    late = replace(turn(), finish="time")
    policy = ScriptedPolicy([*says("a", "b", "c").turns, late])
    worlds = ScriptedWorlds(["x" * 12, "y" * 12, "z" * 12])
    limits = {"max_context_tokens": 44, "max_turn_tokens": 4, "max_episode_seconds": 9.0}
    episode = run(policy, worlds, prompt=StubbingPrompt(), **limits)
    assert episode.tags == ["stubs", "time_limit"]
    trajectory = trajectory_of(episode, "actor-0")
    assert trajectory.context_bytes == b""
    assert len(trajectory.tokens) == episode.repeats[0][0]


def test_the_tokens_of_an_episode_are_limited_and_a_turn_that_meets_the_limit_is_not_executed():
    cut = replace(turn(*letters("bbb")), finish="length")
    policy, worlds = ScriptedPolicy([*says("aa").turns, cut]), ScriptedWorlds(["ok"])
    episode = run(policy, worlds, max_episode_tokens=6)
    assert [asked[2] for asked in policy.asked] == [6, 3]
    assert (episode.tags, worlds.executed, worlds.graded) == (["token_budget"], ["aa"], 1)
    assert episode.sampled_tokens == 6
    spent = run(says("aa"), ScriptedWorlds(["ok"]), max_episode_tokens=3)
    assert (spent.tags, spent.sampled_tokens) == (["token_budget"], 3)


class TimedPolicy(ScriptedPolicy):
    """Keeps how long a turn may take."""

    async def generate(self, ids, *, max_seconds=None, **how):
        self.asked.append(max_seconds)
        return self.turns.pop(0)


def test_an_episodes_time_is_what_its_turns_leave_and_what_was_sampled_when_it_is_over_is_kept():
    cut = replace(turn(*letters("b")), finish="time")
    policy, worlds = TimedPolicy([*says("a").turns, cut]), ScriptedWorlds(["ok"])
    episode = run(policy, worlds, max_episode_seconds=60.0)
    assert policy.asked[0] == 60.0
    assert 50.0 < policy.asked[1] <= 59.75, "each turn took a quarter of a second, the world next to nothing"
    assert (episode.tags, worlds.executed, worlds.graded) == (["time_limit"], ["a"], 1)
    assert episode.ids[-1:] == letters("b")


def test_no_turn_begins_when_the_time_is_over():
    worlds = ScriptedWorlds(["ok"])
    episode = run(TimedPolicy(says("a", "b").turns), worlds, max_episode_seconds=0.25)
    assert (episode.tags, len(episode.turns), worlds.graded) == (["time_limit"], 1, 1)
