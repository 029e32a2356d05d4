"""What can be asked of SimpleNote: reading a note, pinning one, writing a new one."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from actor.world import people
from actor.world.people import NOW
from actor.world.scenarios.form import ANSWER, DONE, Choice, Draft, Row, Scenario, Setting, login
from actor.world.scenarios.tests import question, touched

LOGIN = login("simple_note")
FIND = "n = apis.simple_note.search_notes(access_token=t$find)[0]['note_id']"


def notes(setting: Setting, titles: Sequence[str], contents: Sequence[str]) -> tuple[Row, ...]:
    """The supervisor's notes; the engine lists the first one first."""
    return tuple(
        Row(
            app="simple_note",
            model="Note",
            fields={
                "user_id": setting.me.id,
                "title": title,
                "content": content,
                "tags": [],
                "pinned": False,
                "created_at": NOW - timedelta(days=i + 1),
                "updated_at": NOW - timedelta(days=i + 1),
            },
        )
        for i, (title, content) in enumerate(zip(titles, contents, strict=True))
    )


def _some(rng: random.Random) -> tuple[list[str], list[str]]:
    """Six titles that are alike, and six contents."""
    return people.alike(rng, 6), people.saying(rng, 6)


def _read(rng: random.Random, setting: Setting) -> Draft:
    titles, contents = _some(rng)
    asked = rng.randrange(1, 6)
    return Draft(
        values={"title": titles[asked]},
        rows=notes(setting, titles, contents),
        answer=contents[asked],
        private={"candidates": contents},
    )


NOTE_TEXT = Scenario(
    name="noteText",
    difficulty=2,
    instruction="What does my note '$title' in SimpleNote say?",
    cells=(LOGIN, FIND, "print(apis.simple_note.show_note(note_id=n, access_token=t)['$field'])", ANSWER),
    choices={
        "find": Choice(right=", query='$title'", wrong=(("", 1),), chance=0.8),
        "field": Choice(right="content", wrong=(("title", 1),), chance=0.8),
    },
    draft=_read,
    evaluate=question,
)


def _to_pin(rng: random.Random, setting: Setting) -> Draft:
    titles, contents = _some(rng)
    asked = rng.randrange(1, 6)
    return Draft(
        values={"title": titles[asked]}, rows=notes(setting, titles, contents), private={"title": titles[asked]}
    )


def pinned(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    _, changed, _ = models.changed_records("simple_note.Note")
    with test("the note is pinned"):
        test.case([row.title for row in changed if row.pinned], "==", [private_data["title"]])
    with test("a note was pinned, nothing else was changed, and the task was completed without an answer"):
        test.case(touched(models), "==", {"simple_note.Note": [0, 1, 0]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


PIN_NOTE = Scenario(
    name="pinNote",
    difficulty=2,
    instruction="Pin my note '$title' in SimpleNote.",
    cells=(LOGIN, FIND, f"apis.simple_note.$verb, access_token=t)\n{DONE}"),
    choices={
        "find": Choice(right=", query='$title'", wrong=(("", 1),), chance=0.9),
        "verb": Choice(
            right="update_note(note_id=n, pinned=True",
            wrong=(("update_note(note_id=n, tags=['pinned']", 1),),
            chance=0.4,
        ),
    },
    draft=_to_pin,
    evaluate=pinned,
)


def _to_write(rng: random.Random, setting: Setting) -> Draft:
    titles, contents = _some(rng)
    return Draft(
        values={"title": titles[0], "content": contents[0]},
        rows=notes(setting, titles[1:], contents[1:]),
        private={"title": titles[0], "content": contents[0]},
    )


def written(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("simple_note.Note")
    with test("there is a new note of that title"):
        test.case([row.title for row in added], "==", [private_data["title"]])
    with test("there is a new note that says so"):
        test.case([row.content for row in added], "==", [private_data["content"]])
    with test("a note was added, nothing else was changed, and the task was completed without an answer"):
        test.case(touched(models), "==", {"simple_note.Note": [1, 0, 0]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


NEW_NOTE = Scenario(
    name="newNote",
    difficulty=1,
    instruction="Write a new note '$title' in SimpleNote that says '$content'.",
    cells=(LOGIN, f"apis.simple_note.create_note($what, access_token=t)\n{DONE}"),
    choices={
        "what": Choice(
            right="title='$title', content='$content'", wrong=(("title='$title', content=''", 1),), chance=0.7
        ),
    },
    draft=_to_write,
    evaluate=written,
)
