"""What an actor recorded comes out again, whatever happened in it; what was planted in a record is found and shown."""

import json

import pytest
import recording
from recording import LONGEST, record, with_spans, without_last_turn

from actor.world.audit import audit, drawn, facts_of
from actor.world.replay import replay
from common.behaviour import DecodedTurn, count, decode, failure
from common.journal import Journal
from common.prompt import PromptConfig
from common.segments import Segments
from common.wire import encode

LOG_IN = (
    "me = apis.supervisor.show_profile()\n"
    "pw = {a['account_name']: a['password'] for a in apis.supervisor.show_account_passwords()}\n"
    "t = apis.simple_note.login(username=me['email'], password=pw['simple_note'])['access_token']\nprint(t)"
)
NOTE = "print(apis.simple_note.create_note(title='t', content='c', access_token=t))"
FINISH = "apis.supervisor.complete_task()"
STORIES = {
    "chance": ["import random\nprint(random.random(), random.sample(range(99), 5))", "print(random.random())", FINISH],
    "logins": [LOG_IN, NOTE, "import random\nprint(random.random())", LOG_IN, FINISH],
    "failures": ["1/0", "print(undefined)", "apis.venmo.show_transactions()", "1 +", "import subprocess", FINISH],
    "no code": ["```python\n\n```", "", "print(1)", FINISH],
    "sets and time": ["print({'b', 'a', 'c'}, hash('a'))", "import time\nprint(time.time(), DateTime.now())"],
    "never done": ["print(1)", "print(2)"],
    "ended by itself": ["print(1)", "exit()", "print(2)", FINISH],
}
SHORT = {"max_turn_tokens": 12}
NARROW = {"max_context_tokens": 260}


@pytest.fixture(scope="module")
def prompt():
    return recording.make_prompt()


class Keeping:
    """Worlds that keep what their episodes changed."""

    def __init__(self, host):
        self.host, self.opened = host, []

    async def open(self, task_id):
        self.opened.append(await self.host.open(task_id))
        return self.opened[-1]

    @property
    def changes(self):
        return [[json.loads(turn) for turn in world._changes] for world in self.opened]


def played(worlds, prompt, texts, task=0, **sampling):
    return worlds.run(record(worlds.host, prompt, worlds.tasks[task], texts, **sampling))


def replayed(worlds, prompt, trajectory, longest=LONGEST):
    return worlds.run(replay(trajectory, worlds.host, prompt, longest))


def assert_same(result, trajectory):
    assert result.differences == ()
    assert (result.outcome, result.excuses) == ("same", ())
    assert (result.reward, result.success) == (trajectory.reward, trajectory.success)
    assert result.turns == len(trajectory.turns)


def test_an_episode_of_several_contexts_comes_out_again_and_reads_as_one(worlds):
    prompt = recording.make_prompt(PromptConfig(long_context="stub", stub_share=0.3))
    texts = [*(f"print('word {n} ' * 30)" for n in range(8)), FINISH]
    whole = played(worlds, recording.make_prompt(), texts, max_turn_tokens=60)
    room = int(whole.turns[5][0])  # of the opening and five turns
    trajectory = played(worlds, prompt, texts, max_turn_tokens=60, max_context_tokens=room)
    assert len(trajectory.contexts) > 1
    assert "stubs" in trajectory.tags
    assert_same(replayed(worlds, prompt, trajectory), trajectory)
    read = decode(trajectory, prompt)
    assert [turn.code for turn in read.turns] == texts
    assert all(f"word {n} word {n}" in turn.observation for n, turn in enumerate(read.turns[:8]))
    assert all("taken out" not in turn.observation for turn in read.turns[:8])
    assert whole.transcript[0].tolist() == trajectory.transcript[0].tolist()


@pytest.mark.parametrize("story", STORIES)
def test_what_an_actor_recorded_comes_out_again(worlds, prompt, story):
    trajectory = played(worlds, prompt, STORIES[story])
    assert_same(replayed(worlds, prompt, trajectory), trajectory)


def test_reference_solutions_of_several_tasks_come_out_again(worlds, prompt):
    for task in range(0, len(worlds.tasks), len(worlds.tasks) // 5):
        trajectory = played(worlds, prompt, worlds.solution(worlds.tasks[task]), task)
        assert trajectory.success
        assert_same(replayed(worlds, prompt, trajectory), trajectory)


@pytest.mark.parametrize(
    ("limits", "tag"), [(SHORT, "token_limit"), (NARROW, "context_limit"), ({"max_turns": 2}, "turn_limit")]
)
def test_episodes_that_their_limits_cut_come_out_again(worlds, prompt, limits, tag):
    texts = ["for i in range(60):\n    print(i, 'is a number')", *["print('once more', 1 + 1)"] * 9]
    trajectory = played(worlds, prompt, texts, **limits)
    assert tag in trajectory.tags
    assert_same(replayed(worlds, prompt, trajectory), trajectory)


def test_episodes_of_the_react_form_come_out_again_and_are_told_what_they_did(worlds):
    prompt, wide = recording.make_prompt(PromptConfig(form="react", observation_tokens=200)), 60_000
    texts = [
        "I assume that there is a shop.\n```python\nprint(apis.api_docs.show_app_descriptions())\n```",
        "```python\nprint(1)\n```\nand then\n```python\nprint(n)\n```",
        "```python\nlogin('your_password')\n```",
        "I do not know what to do.",
        f"```python\n{FINISH}\n```",
    ]
    trajectory = played(worlds, prompt, texts, max_context_tokens=wide, longest=wide)
    assert trajectory.tags == ("no_code", "completed")
    assert_same(replayed(worlds, prompt, trajectory, wide), trajectory)
    counts = count(decode(trajectory, prompt))
    assert (counts.turns, counts.cells, counts.multi_cell_turns, counts.no_code_turns) == (5, 5, 1, 1)
    assert (counts.look_ups, counts.failures) == ({"show_app_descriptions": 1}, {"NameError": 1})
    assert (counts.assumption_words, counts.dummy_values, counts.gave_up) == (1, 1, 1)


def test_two_replays_change_the_databases_alike(worlds, prompt):
    trajectory = played(worlds, prompt, STORIES["logins"])
    keeping = Keeping(worlds.host)
    for _ in range(2):
        worlds.run(replay(trajectory, keeping, prompt, LONGEST))
    first, second = keeping.changes
    assert first == second
    assert {app for turn in first for app in turn["changes"]} >= {"simple_note", "supervisor"}


def test_another_observation_is_found_at_its_turn_and_shown(worlds, prompt):
    trajectory = played(worlds, prompt, ["print('a\\nb\\nc')", "print('d')", FINISH])
    planted = with_spans(trajectory, {1: prompt.observation("a\nB\nc\n", 500)})
    result = replayed(worlds, prompt, planted)
    (difference,) = result.differences
    assert (result.outcome, difference.kind, difference.turn, difference.excuse) == ("different", "observation", 0, "")
    assert [line for line in difference.diff().splitlines() if line in ("-B", "+b")] == ["-B", "+b"]
    assert " a" in difference.diff().splitlines()


def test_another_grade_is_found_and_shown(worlds, prompt):
    trajectory = played(worlds, prompt, [FINISH])
    assert not trajectory.success
    planted = trajectory.model_copy(update={"reward": 1.0, "success": True, "failures": ()})
    (difference,) = replayed(worlds, prompt, planted).differences
    assert difference.kind == "grade"
    shown = difference.diff().splitlines()
    assert {"-reward 1.0", "-success True", f"+reward {trajectory.reward!r}", "+success False"} <= set(shown)
    assert [line for line in shown if line.startswith("+failed: ")]


def test_another_task_is_found_at_its_opening(worlds, prompt):
    trajectory = played(worlds, prompt, ["print(apis.supervisor.show_profile()['email'])", FINISH])
    lease = trajectory.lease.model_copy(update={"task_id": worlds.tasks[-1]})
    result = replayed(worlds, prompt, trajectory.model_copy(update={"lease": lease}))
    assert result.outcome == "different"
    assert (result.differences[0].kind, result.differences[0].turn) == ("opening", -1)


def test_an_episode_that_goes_on_or_ends_earlier_than_recorded_is_found(worlds, prompt):
    trajectory = played(worlds, prompt, ["print(1)", "print(2)", FINISH])
    shorter = without_last_turn(trajectory)
    (difference, *_) = replayed(worlds, prompt, shorter).differences
    assert (difference.kind, difference.turn) == ("end", 1)
    assert difference.recorded.splitlines() == ["turns 2", "completed"]
    assert difference.replayed.splitlines()[:3] == ["turns 2", "goes_on", "2"]

    recorded = played(worlds, prompt, ["print(1)", "print(2)", "print(3)"])
    planted = with_spans(recorded, {}, {1: prompt.reply(FINISH)})
    end, *_ = replayed(worlds, prompt, planted).differences
    assert (end.kind, end.turn) == ("end", 1)
    assert end.recorded.splitlines() == ["turns 3", "turn_limit", "after turn 1: print(3)<|im_end|>"]
    assert end.replayed.splitlines()[:2] == ["turns 2", "completed"]


def test_another_room_for_an_observation_is_told_from_another_observation(worlds, prompt):
    trajectory = played(worlds, prompt, ["for i in range(99):\n    print(i, 'is a number')", FINISH])
    result = replayed(worlds, prompt, trajectory, longest=500)
    assert [difference.kind for difference in result.differences] == ["cut"]
    assert "more characters]" in result.differences[0].replayed


def test_a_cell_killed_by_the_clock_excuses_what_comes_of_it_and_nothing_before(worlds, prompt):
    tags = {"tags": ("killed_by_time", "killed")}
    trajectory = played(worlds, prompt, ["print(1)", "print(2)"])
    result = replayed(worlds, prompt, trajectory.model_copy(update=tags))
    assert (result.outcome, result.excuses) == ("not_exact", ("clock",))
    assert [(one.kind, one.excuse) for one in result.differences] == [("end", "clock")]
    planted = with_spans(trajectory, {1: prompt.observation("7\n", 500)}, **tags)
    result = replayed(worlds, prompt, planted)
    assert (result.outcome, result.differences[0].excuse) == ("different", "")


def test_a_cell_that_the_clock_kills_in_the_replay_alone_is_no_difference_of_the_record(worlds, prompt, monkeypatch):
    trajectory = played(worlds, prompt, ["print(1)", "sum(range(5 * 10**7))\nprint(2)", FINISH])
    assert trajectory.tags == ("completed",)
    hasty = worlds.host.config.model_copy(update={"cell_seconds": 0.2})
    monkeypatch.setattr(worlds.host, "config", hasty)
    result = replayed(worlds, prompt, trajectory)
    assert (result.outcome, result.excuses) == ("not_exact", ("clock",))
    assert {one.excuse for one in result.differences} == {"clock"}
    killed = worlds.only("while True: pass")
    assert (killed.killed, failure(DecodedTurn("", "", killed.text))) == ("time", "killed")


def test_a_kill_that_an_episode_survived_excuses_what_comes_of_it_and_nothing_before(worlds, prompt):
    told = "Execution failed. Traceback:\nExecution timed out after 20 seconds. The session was started anew."
    trajectory = played(worlds, prompt, ["print(1)", "print(2)", "print(3)", FINISH])
    tags = {"tags": ("killed_by_time", "completed")}
    planted = with_spans(trajectory, {2: prompt.observation(told, 500), 3: prompt.observation("7\n", 500)}, **tags)
    assert [one.excuse for one in replayed(worlds, prompt, planted).differences] == ["clock"] * 3
    planted = with_spans(planted, {1: prompt.observation("7\n", 500)}, **tags)
    assert [one.excuse for one in replayed(worlds, prompt, planted).differences] == ["", "clock", "clock", "clock"]


def test_addresses_in_memory_excuse_themselves_alone(worlds, prompt):
    trajectory = played(worlds, prompt, ["print('<object at 0x7f12aa34bb56>')", "print(5)", FINISH])
    planted = with_spans(trajectory, {1: prompt.observation("<object at 0x7f12aa34bb99>\n", 500)})
    result = replayed(worlds, prompt, planted)
    assert (result.outcome, result.excuses) == ("not_exact", ("address",))
    planted = with_spans(planted, {2: prompt.observation("6\n", 500)})
    assert [one.excuse for one in replayed(worlds, prompt, planted).differences] == ["address", ""]


def test_what_the_engine_does_not_seed_is_an_excuse_from_its_turn_on(worlds, prompt):
    trajectory = played(worlds, prompt, ["print(1)", "import uuid\nprint(uuid.uuid4())", "print(2)", FINISH])
    result = replayed(worlds, prompt, trajectory)
    assert (result.outcome, result.excuses) == ("not_exact", ("chance",))
    assert [(one.kind, one.turn, one.excuse) for one in result.differences] == [("observation", 1, "chance")]
    planted = with_spans(trajectory, {1: prompt.observation("7\n", 500)})
    assert replayed(worlds, prompt, planted).outcome == "different"


def test_a_task_that_the_data_root_lacks_is_no_replay(worlds, prompt):
    trajectory = played(worlds, prompt, [FINISH])
    lease = trajectory.lease.model_copy(update={"task_id": "nothing_1"})
    missing = trajectory.model_copy(update={"lease": lease})
    facts = worlds.run(facts_of(missing, worlds.host, prompt, LONGEST))
    assert facts["outcome"] == "failed"
    assert "has no task 'nothing_1'" in facts["reason"]


def test_a_run_is_audited_and_what_was_planted_in_it_is_counted_by_kind(worlds, prompt, tmp_path):
    made = [
        played(worlds, prompt, texts, task, name=f"g{task}.{number}.0")
        for number, texts in enumerate(STORIES.values())
        for task in (0, 5)
    ]
    made[1] = with_spans(made[1], {1: prompt.observation("another\n", 500)})
    made[4] = made[4].model_copy(update={"reward": 0.125})
    made[6] = made[6].model_copy(
        update={"lease": made[6].lease.model_copy(update={"task_id": "nothing_1"}), "reward": 0.25}
    )
    segments = Segments(tmp_path / "journal", {})
    for trajectory in made:
        segments.append(encode(trajectory))
    segments.close()
    journal, seen = Journal(tmp_path), []
    places = drawn(journal, None, 1)
    done = audit(
        journal, places, worlds.host, prompt, longest=LONGEST, at_once=8, on_done=lambda tally: seen.append(tally.done)
    )
    facts = worlds.run(done).facts()
    assert seen == list(range(1, len(made) + 1))
    assert (facts["replayed"], facts["same"], facts["different"], facts["failed"]) == (13, 11, 2, 1)
    assert facts["kinds"] == {"observation": 1, "grade": 1}
    planted = sorted(made[number].trajectory_id for number in (1, 4, 6))
    assert [one["trajectory_id"] for one in facts["trajectories"]] == planted
    assert json.loads(json.dumps(facts)) == facts


def test_a_sample_is_drawn_by_its_seed(worlds, prompt, tmp_path):
    segments = Segments(tmp_path / "journal", {})
    trajectory = played(worlds, prompt, [FINISH])
    for number in range(20):
        segments.append(encode(trajectory.model_copy(update={"trajectory_id": f"g{number}.0.0"})))
    segments.close()
    journal = Journal(tmp_path)
    assert drawn(journal, 5, 1) == drawn(journal, 5, 1)
    assert drawn(journal, 5, 1) != drawn(journal, 5, 2)
    assert len(drawn(journal, 5, 1)) == 5
    assert len(drawn(journal, None, 1)) == len(drawn(journal, 99, 1)) == 20
