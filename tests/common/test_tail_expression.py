"""What `--expression` takes, and that it takes nothing else."""

import pytest

from common.errors import UsageError
from common.tail_expression import Expression

STEP = {
    "event": "step_made",
    "seconds": {"wait": 3.5, "publish": 0.2},
    "loss": -0.5,
    "step": 7,
    "tags": ["completed", "stubs"],
    "reason": "its key was removed",
    "ok": True,
    "nothing": None,
}


@pytest.mark.parametrize(
    "text",
    [
        'event == "step_made"',
        "event == 'step_made' and step > 6",
        "seconds.wait > 3 and seconds['publish'] < 1",
        "loss < 0 or step == 99",
        "-1 < loss <= 0",
        "not step > 7",
        "'stubs' in tags and 'killed' not in tags",
        "tags[0] == 'completed' and tags[1] == 'stubs'",
        "step in (6, 7, 8)",
        "step in [6, 7, 8]",
        "'key' in reason",
        "ok == true and ok == True and nothing == null and missing is None",
        "missing != 3 and 'x' not in missing",
        "seconds.wait - seconds.publish > 3.2",
        "(step + 1) * 2 / 4 == 4",
        "ok",
        "  step == 7  ",
    ],
)
def test_a_condition_that_holds(text):
    assert Expression(text).passes(STEP)


@pytest.mark.parametrize(
    "text",
    [
        "step > 7",
        "reason > 3",
        "missing > 3",
        "missing < 3",
        "missing",
        "missing.deeper.still == 1",
        "reason.upper == 1",
        "tags[9] == 'x'",
        "step / 0 > 1",
        "reason * 3 == reason",
        "reason + reason != null",
        "step in 7",
        "nothing",
    ],
)
def test_a_condition_that_does_not_hold_or_cannot_be_compared(text):
    assert not Expression(text).passes(STEP)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "event.startswith('s')",
        "(lambda: 1)()",
        "[x for x in tags]",
        "step ** 99999999",
        "step if ok else 1",
        "f'{step}'",
        "{'a': 1}",
        "tags[step]",
        "tags[0:1]",
        "(x := 3)",
        "b'bytes' == 1",
        "... == 1",
        "1j == 1",
        "*tags, 1",
        "~step",
        "step % 2 == 0",
    ],
)
def test_anything_else_is_refused_with_what_it_is(text):
    with pytest.raises(UsageError, match="--expression"):
        Expression(text)


@pytest.mark.parametrize("text", ["", "step >", "a b", "import os", "x = 1", "-" * 1999, "(" * 500, "a" * 2001, "\0"])
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(UsageError, match="--expression"):
        Expression(text)


def test_a_dunder_is_a_field_that_no_line_has():
    assert not Expression("event.__class__.__mro__").passes(STEP)
    assert Expression("__class__ == 3").passes({"__class__": 3})


def test_words_that_a_line_must_have_are_found_before_it_is_parsed():
    assert Expression('seconds > 2 and event == "step" and task == "a_1"').words == ("step", "a_1")


@pytest.mark.parametrize("text", ['event == "a" or event == "b"', 'not event == "a"', 'event == "ä"', 'event != "a"'])
def test_a_word_that_need_not_be_there_as_it_is_written_is_not_looked_for(text):
    assert Expression(text).words == ()
