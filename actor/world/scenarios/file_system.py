"""What can be asked of the file system: what a file says, how many there are, moving one."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from actor.world import people
from actor.world.catalogue import FOLDERS, home
from actor.world.people import NOW
from actor.world.scenarios.form import ANSWER, DONE, Choice, Draft, Row, Scenario, Setting, login
from actor.world.scenarios.tests import question, touched

LOGIN = login("file_system")
FIND = "s = apis.file_system.show_directory(substring='$find', access_token=t)"
READ = "apis.file_system.show_file(file_path=s[0], access_token=t)['content']"
NAMED, NAMED_LIKE = "/$file.", "$file"  # of one name; of that name among others


def files(setting: Setting, paths: Sequence[str], contents: Sequence[str]) -> tuple[Row, ...]:
    """Files of the supervisor. `paths` begin below his home, without the extension, e.g. "photos/Trip Plan"."""
    return tuple(
        Row(
            app="file_system",
            model="File",
            fields={
                "user_id": setting.me.id,
                "path": f"{home(setting.me)}{path}.txt",
                "content": content,
                "created_at": NOW - timedelta(days=i + 1),
                "updated_at": NOW - timedelta(days=i + 1),
            },
        )
        for i, (path, content) in enumerate(zip(paths, contents, strict=True))
    )


def filed(rng: random.Random, setting: Setting, contents: Sequence[str]) -> tuple[tuple[Row, ...], str, str]:
    """Six files with names that are alike: the rows, the name of the first one, its folder.

    Whoever looks for the name as a part of others' names finds another file first.
    """
    asked, *others = people.alike(rng, 4)
    folder = rng.choice(FOLDERS)
    names = [asked, f"{asked} Copy", f"Old {asked}", *others]
    places = [folder, folder, *rng.choices(FOLDERS, k=4)]
    paths = [f"{place}/{name}" for place, name in zip(places, names, strict=True)]
    return files(setting, paths, contents), asked, folder


def _to_read(rng: random.Random, setting: Setting) -> Draft:
    contents = people.saying(rng, 6)
    rows, asked, _ = filed(rng, setting, contents)
    return Draft(values={"file": asked}, rows=rows, answer=contents[0], private={"candidates": contents})


FILE_TEXT = Scenario(
    name="fileText",
    difficulty=2,
    instruction="What does my file '$file' say?",
    cells=(LOGIN, f"{FIND}\nprint({READ})", ANSWER),
    choices={"find": Choice(right=NAMED, wrong=((NAMED_LIKE, 1),), chance=0.36)},
    draft=_to_read,
    evaluate=question,
)


def _to_count(rng: random.Random, setting: Setting) -> Draft:
    folder, other = rng.sample(FOLDERS, 2)
    inside = [f"{folder}/{name.lower()}" for name in rng.sample(people.TOPIC.split(), rng.randint(1, 3))]
    places = [*inside, *rng.choices([folder, *inside], k=rng.randint(1, 9)), *[other] * rng.randint(1, 4)]
    paths = [
        f"{place}/{name}"
        for place, name in zip(places, people.pairs(rng, people.TOPIC, people.KIND, len(places)), strict=True)
    ]
    made = {"user_id": setting.me.id, "created_at": NOW, "updated_at": NOW}
    folders = (
        Row(app="file_system", model="Directory", fields={**made, "path": f"{home(setting.me)}{path}/"})
        for path in inside
    )
    return Draft(
        values={"folder": folder},
        rows=(*folders, *files(setting, paths, people.saying(rng, len(paths)))),
        answer=str(sum(place != other for place in places)),
        private={"candidates": [str(n) for n in range(1, 17)]},
    )


FILE_COUNT = Scenario(
    name="fileCount",
    difficulty=1,
    instruction="How many files are in my folder '$folder' and in the folders inside it?",
    cells=(
        LOGIN,
        "s = apis.file_system.show_directory(directory_path='~/$folder'$kind, access_token=t)\nprint(len(s))",
        ANSWER,
    ),
    choices={"kind": Choice(right=", entry_type='files'", wrong=(("", 1),), chance=0.65)},
    draft=_to_count,
    evaluate=question,
)


def _to_move(rng: random.Random, setting: Setting) -> Draft:
    contents = people.saying(rng, 6)
    rows, asked, place = filed(rng, setting, contents)
    folder = rng.choice([name for name in FOLDERS if name != place])
    private = {"before": f"/{place}/{asked}.txt", "after": f"/{folder}/{asked}.txt", "content": contents[0]}
    return Draft(values={"file": asked, "folder": folder}, rows=rows, private=private)


def moved(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, removed = models.changed_records("file_system.File")
    with test("the file is in that folder"):
        found = [("/" + "/".join(row.path.split("/")[3:]), row.content) for row in added]
        test.case(found, "==", [(private_data["after"], private_data["content"])])
    with test("the file is no longer where it was"):
        test.case(["/" + "/".join(row.path.split("/")[3:]) for row in removed], "==", [private_data["before"]])
    with test("a file was moved, nothing else was changed, and the task was completed without an answer"):
        test.case(touched(models), "==", {"file_system.Directory": [0, 5, 0], "file_system.File": [1, 0, 1]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


TARGET = "n = '~/$folder/' + s[0].split('/')[-1]"

MOVE_FILE = Scenario(
    name="moveFile",
    difficulty=2,
    instruction="Move my file '$file' into my folder '$folder'.",
    cells=(
        LOGIN,
        FIND,
        f"{TARGET}\napis.file_system.$verb(source_file_path=s[0], destination_file_path=n, access_token=t)\n{DONE}",
    ),
    choices={
        "find": Choice(right=NAMED, wrong=((NAMED_LIKE, 1),), chance=0.9),
        "verb": Choice(right="move_file", wrong=(("copy_file", 1),), chance=0.36),
    },
    draft=_to_move,
    evaluate=moved,
)
