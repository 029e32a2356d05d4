"""What needs two apps: what one holds is used in the other. The hardest tasks of training."""

from __future__ import annotations

import random

from actor.world import people
from actor.world.catalogue import FIRST_PROJECT
from actor.world.scenarios.file_system import FIND as FIND_FILE
from actor.world.scenarios.file_system import NAMED, NAMED_LIKE, READ, filed
from actor.world.scenarios.form import DONE, Choice, Draft, Scenario, Setting, first_page, logins, pages
from actor.world.scenarios.phone import FIND as FIND_CONTACT
from actor.world.scenarios.phone import USERNAME, texted
from actor.world.scenarios.simple_note import FIND as FIND_NOTE
from actor.world.scenarios.simple_note import notes, written
from actor.world.scenarios.spotify import LIBRARY, longest
from actor.world.scenarios.todoist import FIND as FIND_PROJECT
from actor.world.scenarios.todoist import TASKS, planned, task_added
from actor.world.scenarios.venmo import FIND as FIND_FRIEND
from actor.world.scenarios.venmo import paid_plainly


def _in_second(code: str) -> str:
    """A piece of another scenario with the second app's token, and `$seek` for what it chooses."""
    return code.replace("access_token=t", "access_token=u").replace("$find", "$seek")


def _note_to_task(rng: random.Random, setting: Setting) -> Draft:
    asked = rng.randrange(1, 4)
    rows, names, _ = planned(rng, setting, 4, asked)
    titles, contents = people.alike(rng, 6), people.saying(rng, 6)
    note = rng.randrange(1, 6)
    private = {"title": contents[note], "priority": "medium", "project_id": FIRST_PROJECT + asked}
    return Draft(
        values={"note": titles[note], "project": names[asked]},
        rows=(*rows, *notes(setting, titles, contents)),
        private=private,
    )


NOTE_TASK = Scenario(
    name="noteTask",
    difficulty=3,
    instruction="Add what my note '$note' in SimpleNote says as a task to my Todoist project '$project'.",
    cells=(
        logins("simple_note", "todoist"),
        f"{FIND_NOTE}\nx = apis.simple_note.show_note(note_id=n, access_token=t)['content']",
        f"{_in_second(FIND_PROJECT)}\napis.todoist.create_task(project_id=n, title=x, access_token=u)\n{DONE}",
    ),
    choices={
        "find": Choice(right=", query='$note'", wrong=(("", 1),), chance=0.85),
        "seek": Choice(right=", query='$project'", wrong=(("", 1),), chance=0.8),
    },
    draft=_note_to_task,
    evaluate=task_added,
)


def _song_to_note(rng: random.Random, setting: Setting) -> Draft:
    rows, songs = longest(rng, setting)
    title, *titles = people.alike(rng, 4)
    return Draft(
        values={"title": title},
        rows=(*rows, *notes(setting, titles, people.saying(rng, 3))),
        private={"title": title, "content": max(songs, key=lambda song: song.duration).title},
    )


SONG_NOTE = Scenario(
    name="songNote",
    difficulty=3,
    instruction="Write a new note '$title' in SimpleNote that names the longest song of my Spotify song library.",
    cells=(
        logins("spotify", "simple_note"),
        "s = $read\nx = $pick(s, key=lambda x: x['duration'])['title']",
        f"apis.simple_note.create_note(title='$title', content=x, access_token=u)\n{DONE}",
    ),
    choices={
        "read": Choice(right=pages(LIBRARY), wrong=((first_page(LIBRARY), 1),), chance=0.36),
        "pick": Choice(right="max", wrong=(("min", 1),), chance=0.9),
    },
    draft=_song_to_note,
    evaluate=written,
)


def _file_to_pay(rng: random.Random, setting: Setting) -> Draft:
    friend = rng.choice(setting.friends[1:-1])
    amounts = rng.sample(people.DOLLARS, 6)
    rows, asked, _ = filed(rng, setting, [str(amount) for amount in amounts])
    return Draft(
        values={"name": friend.name, "file": asked}, rows=rows, private={"friend_id": friend.id, "amount": amounts[0]}
    )


PAY_FILE = Scenario(
    name="payFile",
    difficulty=3,
    instruction="Send '$name' on Venmo as many dollars as my file '$file' says.",
    cells=(
        logins("file_system", "venmo"),
        f"{FIND_FILE}\nx = {READ}",
        f"{_in_second(FIND_FRIEND)}\napis.venmo.$verb=e, amount=int(x), access_token=u)\n{DONE}",
    ),
    choices={
        "find": Choice(right=NAMED, wrong=((NAMED_LIKE, 1),), chance=0.8),
        "seek": Choice(right=", query='$name'", wrong=(("", 1),), chance=0.92),
        "verb": Choice(
            right="create_transaction(receiver_email", wrong=(("create_payment_request(user_email", 1),), chance=0.4
        ),
    },
    draft=_file_to_pay,
    evaluate=paid_plainly,
)


def _task_to_text(rng: random.Random, setting: Setting) -> Draft:
    friend = rng.choice(setting.friends[1:-1])
    asked = rng.randrange(1, 4)
    rows, names, titles = planned(rng, setting, 4, asked)
    return Draft(
        values={"name": friend.name, "project": names[asked]},
        rows=rows,
        private={"receiver_id": friend.id, "message": titles[0]},
    )


SEND = f"apis.phone.send_text_message(phone_number=p, message=x, access_token=t)\n{DONE}"

TEXT_TASK = Scenario(
    name="textTask",
    difficulty=3,
    instruction="Send a text message to '$name' with the task of my Todoist project '$project' that is due first.",
    cells=(
        logins("phone", "todoist", "$username"),
        _in_second(f"{FIND_PROJECT}\n{TASKS}"),
        f"{FIND_CONTACT}\nx = $pick['title']\n{SEND}",
    ),
    choices={
        "username": USERNAME,
        "seek": Choice(right=", query='$project'", wrong=(("", 1),), chance=0.95),
        "find": Choice(right=", query='$name'", wrong=(("", 1),), chance=0.92),
        "pick": Choice(right="min(s, key=lambda x: x['due_date'])", wrong=(("s[0]", 1),), chance=0.35),
    },
    draft=_task_to_text,
    evaluate=texted,
)
