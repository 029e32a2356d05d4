"""Each measure of behaviour on episodes made by hand; and that counts add up, whatever the episodes."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.behaviour import (
    Counts,
    DecodedEpisode,
    DecodedTurn,
    assumption_words,
    code_cells,
    count,
    count_all,
    dummy_values,
    failure,
    gave_up,
    look_ups,
)
from common.code_of_turn import read
from common.table import print_behaviour

NAME_ERROR = "Execution failed. Traceback:\n  File \"<python-input>\", line 1\nNameError: name 'n' is not defined"
GIVE_UP = "apis.supervisor.complete_task(status='fail')"
WORDS = {"": None, "1": "ok", GIVE_UP: None, "print(n)": NAME_ERROR}


def turn(text="print(1)", observation="1", *, code=None):
    return DecodedTurn(text, code or read(text, fence_needed=False).code, observation)


def episode(*turns, success=False, killed=False, told="Pay Ann."):
    return DecodedEpisode(told, turns, sampled_tokens=10 * len(turns), success=success, killed=killed)


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("print(1)", 1),
        ("I look.\n```python\nprint(1)\n```", 1),
        ("First\n```python\na = 1\n```\nthen\n```python\nprint(a)\n```\nand\n```\nb\n```", 3),
        ("```json\n{}\n```\n```python\nprint(1)\n```", 1),
        ("<think>\n```python\nx\n```\n</think>\n```python\nprint(1)\n```", 1),
        ("  \n", 0),
    ],
)
def test_code_cells_are_the_blocks_of_python_that_a_turn_writes(text, cells):
    assert code_cells(turn(text)) == cells


def test_look_ups_are_calls_of_the_documentation_in_the_code_alone():
    code = (
        "print(apis.api_docs.show_api_doc(app_name='venmo', api_name='login'))\napis.api_docs.show_app_descriptions()"
    )
    said = f"I call show_api_descriptions() later.\n```python\n{code}\nshow_api_doc\n```"
    assert look_ups(turn(said)) == {"show_api_doc": 1, "show_app_descriptions": 1}
    assert look_ups(turn("show_api_doc(a); show_api_doc(b)")) == {"show_api_doc": 2}


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (NAME_ERROR, "NameError"),
        ("Execution failed. Traceback:\n  x\nException: Response status code is 422:\n{}", "API 422"),
        ("Execution failed. Traceback:\nSyntax error in line:\n1 +\nMessage: invalid syntax", "syntax"),
        ("Execution failed. Traceback:\nUsage of the following module is not allowed: sys.", "refused"),
        ("Execution failed. Traceback:\nExecution timed out after 20 seconds.", "killed"),
        ("Execution failed. Traceback:\n  x\njson.decoder.JSONDecodeError: Expecting value", "JSONDecodeError"),
        ("Execution failed. Traceback:\n  x\nStopIteration", "StopIteration"),
        ("Execution failed. Traceback:\n[217 more characters]", "other"),
        ("Execution successful.", None),
        ("NameError: what a page says", None),
        (None, None),
    ],
)
def test_a_failed_execution_has_its_kind(told, kind):
    assert failure(turn(observation=told and f"\n<|im_start|>user\n{told}<|im_end|>\n<|im_start|>assistant\n")) == kind


def test_words_of_assumption_count_in_all_that_is_said():
    said = "Assuming that the first is right, I assume so. Presumably.\nprint(1)  # supposed to be an assumption"
    assert assumption_words(turn(said)) == 5
    assert assumption_words(turn("print(consumed, resumed)")) == 0


def test_dummy_values_are_those_that_nobody_told():
    said = "login('your_password', 'dummy@x.org', 'ann@example.com')  # a placeholder"
    assert dummy_values(turn(said), "") == 4
    assert dummy_values(turn(said), "write to ann@example.com") == 3
    made = episode(turn("f('ann@example.com')", "ok"), turn("f('bo@example.com')"), told="write to ann@example.com")
    assert count(made).dummy_values == 1
    seen = episode(turn("look()", "bo@example.com"), turn("f('bo@example.com')"))
    assert count(seen).dummy_values == 0


@pytest.mark.parametrize(
    ("turns", "whether"),
    [
        ([turn("print(n)", NAME_ERROR), turn(GIVE_UP, None)], True),
        ([turn("print(n)", NAME_ERROR), turn(" ", None)], True),
        ([turn("print(n)", NAME_ERROR), turn("n = 1", "ok"), turn(GIVE_UP, None)], False),
        ([turn("print(n)", NAME_ERROR), turn("apis.supervisor.complete_task()", None)], False),
        ([turn("print(1)", "1"), turn(GIVE_UP, None)], False),
        ([turn("print(n)", NAME_ERROR)], False),
    ],
)
def test_giving_up_is_a_failed_task_or_no_code_right_after_a_failed_execution(turns, whether):
    assert gave_up(episode(*turns)) is whether


def test_an_episodes_counts_are_those_of_its_turns():
    counts = count(
        episode(turn("print(n)", NAME_ERROR), turn("", "Nothing was executed"), turn("print(1)", None), success=True)
    )
    assert (counts.turns, counts.cells, counts.no_code_turns, counts.seen_turns) == (3, 2, 1, 2)
    assert (counts.failures, counts.failing_episodes, counts.gave_up) == ({"NameError": 1}, 1, 1)
    assert counts.measures()["failed_turns"] == 0.5
    assert counts.measures()["tgc"] == 1.0
    assert count(episode(turn(), turn("loop()", None), killed=True)).failures == {"killed": 1}


def test_measures_of_nothing_are_none():
    assert set(Counts().measures().values()) == {None}
    assert count(episode(turn())).measures()["gave_up"] is None


turns = st.builds(
    DecodedTurn,
    text=st.sampled_from([*WORDS, "I assume\n```python\ndummy = 1\n```\n```python\nshow_api_doc()\n```"]),
    code=st.sampled_from([None, "show_api_doc()", GIVE_UP]),
    observation=st.sampled_from([None, "ok", NAME_ERROR, "Execution failed. Traceback:\nStopIteration"]),
)
episodes = st.builds(
    DecodedEpisode,
    told=st.sampled_from(["", "dummy"]),
    turns=st.lists(turns, min_size=1, max_size=5).map(tuple),
    sampled_tokens=st.integers(1, 99),
    success=st.booleans(),
    reward=st.sampled_from([0.0, 0.25, 1.0]),
    killed=st.booleans(),
)


@given(st.lists(episodes, max_size=6), st.lists(episodes, max_size=6))
def test_counts_of_two_sets_add_up_to_those_of_both_and_parts_do_not_exceed_the_whole(one, other):
    first, second = (sum(map(count, part), Counts()) for part in (one, other))
    both = sum(map(count, [*one, *other]), Counts())
    assert first + second == both
    assert both.episodes == len(one) + len(other)
    assert both.turns == sum(len(each.turns) for each in (*one, *other))
    assert both.failures.total() <= both.seen_turns <= both.turns
    assert both.multi_cell_turns + both.no_code_turns <= both.turns + both.cells
    assert both.gave_up <= both.failing_episodes <= both.episodes
    assert sum(both.facts()["failures"].values()) == pytest.approx(both.measures()["failed_turns"] or 0, abs=1e-5)


@dataclass
class Letters:
    """A token is a letter."""

    def text(self, ids):
        return "".join(map(chr, ids))

    def code(self, ids):
        return self.text(ids).strip("#") or None


def test_a_trajectory_is_decoded_into_what_was_told_said_and_seen():
    from test_journal import make_trajectory

    made = make_trajectory("one", tokens=8)
    tokens = b"".join(ord(letter).to_bytes(4, "little") for letter in "Hi! p(1)")
    counts = count_all([made.model_copy(update={"token_bytes": tokens})] * 2, Letters())
    assert (counts.episodes, counts.turns, counts.sampled_tokens, counts.cells) == (2, 2, 8, 2)
    assert counts.reward == 1.0


def test_the_table_shows_two_sets_and_their_change(capsys):
    before = {"name": "before.t0", **count(episode(turn("print(n)", NAME_ERROR), turn(GIVE_UP, None))).facts()}
    counts = count(episode(turn("print(n)", NAME_ERROR), turn("n = 1", "ok"), success=True)) + count(episode(turn()))
    after = {"name": "after.t0", **counts.facts()}
    print_behaviour([before, after])
    shown = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "│" in line}
    assert [word.strip() for word in shown["failed executions / turn"].split("│")[2:5]] == [
        "100.00%",
        "33.33%",
        "x 0.33",
    ]
    assert "failed: NameError" in shown
    print_behaviour([before, after], short=True)
    shown = capsys.readouterr().out
    assert "failed: NameError" not in shown
    assert "dummy values" not in shown
