"""Whatever is logged stands in the table of events, as it stands there; and what stands there is logged."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

import pytest
from log_calls import Source, sources

from common import log
from common.event import LEVELS, LINE, Event
from common.events import DOCUMENT, EVENTS, PARTS, document, main

SOURCES = sources()
CALLS = [call for source in SOURCES for call in source.calls()]
EVERYWHERE = {*LINE, "exc_info", "exception"}
# what a log above debug must not carry, by the name of a field, or of what a value is read from
SECRET = re.compile(r"secret|password|credential|access_token|api_key|private")
MODELS_TEXT = re.compile(r"^(code|observation|output|prompt|completion|messages|sampled_text|decoded|answer_text)$")
OTHERS_WORDS = {"library_warning", "library_error", "world_engine_said"}  # the only ones with a field `text`


def faults(calls, events):
    """What a person has to change, a line each; where an event is missing, the line of the table to add."""
    for call in calls:
        event = events.get(call.event)
        own = sorted(call.fields - EVERYWHERE)
        if call.event is None:
            yield f"{call.where}: the event must be a string in the call"
        elif event is None:
            fields = "".join(f'"{name}": "what it is, with its unit", ' for name in own).removesuffix(", ")
            told = f", {{{fields}}}" if own else ""
            yield f"{call.where}: {call.event} is not in the table; add where it belongs in common/events_*.py:"
            yield f'    "{call.event}": Event("{call.level}", "what has happened"{told}),'
        else:
            yield from _faults_of(call, event, own)


def _faults_of(call, event, own):
    if call.level != event.level:
        yield (
            f"{call.where}: {call.event} is logged as {call.level}, the table says {event.level} "
            f"({LEVELS[event.level].partition(':')[0]}); change either, in all places"
        )
    for name in own:
        if name not in event.fields and not event.more:
            yield f"{call.where}: {call.event} has no field {name}; add to its fields in common/events_*.py:"
            yield f'    "{name}": "what it is, with its unit",'
    if not call.shows_all and not event.more:
        yield f"{call.where}: {call.event} has fields that the call does not show: name them, or tell of them in `more`"


def test_every_log_call_is_in_the_table_with_its_level_and_its_fields():
    assert "\n".join(faults(CALLS, EVENTS)) == ""


def test_whatever_stands_in_the_table_is_logged():
    logged = defaultdict(set)
    for call in CALLS:
        logged[call.event] |= call.fields
    assert [name for name in EVENTS if name not in logged] == [], (
        "nobody logs these: take them out of common/events_*.py"
    )
    unused = [(name, one) for name, event in EVENTS.items() for one in event.fields if one not in logged[name]]
    assert [(name, one) for name, one in unused if not EVENTS[name].more] == [], "no call gives these fields"


def test_no_event_stands_in_two_parts_of_the_table():
    assert sum(map(len, PARTS.values())) == len(EVENTS)


def test_what_is_logged_can_be_read_from_each_call():
    assert [place for source in SOURCES for place in source.hidden()] == []


def test_events_and_fields_have_names_of_one_form():
    names = [*EVENTS, *(name for event in EVENTS.values() for name in event.fields)]
    assert [name for name in names if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)] == []
    assert [name for event in EVENTS.values() for name in event.fields if name in EVERYWHERE] == []


def test_what_things_are_called_is_the_same_in_all_events():
    synonyms = {
        *("lease_id", "group_id", "trajectory_id", "task_id", "run_id", "actor_name", "version", "why", "error"),
        *("episode_id", "member_id", "duration", "elapsed", "msg", "cause"),
    }
    assert [(name, one) for name, event in EVENTS.items() for one in event.fields if one in synonyms] == []


def names_in(value):
    """Every name and attribute that a value is made of."""
    for node in ast.walk(value):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def test_nothing_above_debug_carries_a_secret_or_what_a_policy_wrote():
    found = [
        (call.where, name)
        for call in CALLS
        if call.level != "debug"
        for name in (*call.fields, *(name for value in call.values for name in names_in(value)))
        if SECRET.search(name) or (MODELS_TEXT.match(name) and call.where.startswith("actor"))
    ]
    assert found == []


def test_only_other_packages_words_are_passed_on():
    assert {name for name, event in EVENTS.items() if "text" in event.fields} == OTHERS_WORDS


def test_the_page_is_the_table():
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "python -m common.events writes it"


def test_the_page_names_every_event_with_its_level_and_its_fields(capsys):
    assert main(["--print"]) == 0
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", capsys.readouterr().out, flags=re.MULTILINE))
    for name, event in EVENTS.items():
        level, meaning, fields = (
            rows[name].split(" | ") if not rows[name].endswith("| ") else [*rows[name].split(" | "), ""][:3]
        )
        assert (level, meaning) == (event.level, event.meaning)
        assert re.findall(r"`(\w+)`", fields) == list(event.fields)


def test_every_line_begins_as_the_table_says():
    assert tuple(LINE) == log.HEAD


# --- the reader of calls, by examples


TABLE = {
    "begun": Event("info", "it begins", {"count": "how many"}),
    "free": Event("info", "anything", more="whatever there is"),
}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ('log.info("begun", count=1)', ""),
        ('log.info("begun", count=1, lease="l", exc_info=error)', ""),
        ('log.info("free", **anything)', ""),
        (
            'log.info("ended", seconds=1)',
            '"ended": Event("info", "what has happened", {"seconds": "what it is, with its unit"}),',
        ),
        ('log.info("ended")', '"ended": Event("info", "what has happened"),'),
        ('log.warning("begun", count=1)', "begun is logged as warning, the table says info"),
        ('log.info("begun", size=1)', '"size": "what it is, with its unit",'),
        ('log.info("begun", **anything)', "has fields that the call does not show"),
        ("log.info(name, count=1)", "the event must be a string"),
        ('def f():\n    told = {"size": 1}\n    log.info("begun", **told)', "no field size"),
        ('def f():\n    told = {"count": 1}\n    told["size"] = 2\n    log.info("begun", **told)', "no field size"),
        ('def f():\n    told = g()\n    log.info("begun", **told)\ndef g():\n    return {"size": 1}', "no field size"),
        ('SHOWN = ("count", "size")\ndef f(a):\n    log.info("begun", **{n: a[n] for n in SHOWN})', "no field size"),
        ('def say(event, **f):\n    log.warning(event, **f)\nsay("begun", count=1)', "logged as warning"),
        ('def say(kind, event, **f):\n    log.info(event, **f, times=1)\nsay("k", "begun")', "no field times"),
    ],
)
def test_the_message_says_what_to_add(source, told):
    found = "\n".join(faults(Source(source, "example.py").calls(), TABLE))
    assert told in found
    assert bool(found) == bool(told)


def test_a_method_that_is_chosen_at_run_time_is_found():
    assert Source("(log.info if good else log.error)('begun')", "example.py").hidden() == ["example.py:1"] * 2
