"""Scenarios of test_normal alone: never trained on, made of pieces that training sees in other company."""

from __future__ import annotations

import random

from actor.world import people
from actor.world.catalogue import FIRST_GROUP
from actor.world.scenarios.file_system import FIND as FIND_FILE
from actor.world.scenarios.file_system import NAMED, NAMED_LIKE, READ, filed
from actor.world.scenarios.form import ANSWER, DONE, Choice, Draft, Scenario, Setting, first_page, logins, pages
from actor.world.scenarios.phone import LOGIN as PHONE_LOGIN
from actor.world.scenarios.phone import USERNAME, alarms
from actor.world.scenarios.simple_note import notes, written
from actor.world.scenarios.splitwise import FIND as FIND_GROUP
from actor.world.scenarios.splitwise import LOGIN as SPLITWISE_LOGIN
from actor.world.scenarios.splitwise import SPENT, expense, groups
from actor.world.scenarios.spotify import LOGIN as SPOTIFY_LOGIN
from actor.world.scenarios.spotify import PAGE, library, likes
from actor.world.scenarios.tests import question
from actor.world.scenarios.todoist import FIND as FIND_PROJECT
from actor.world.scenarios.todoist import LOGIN as TODOIST_LOGIN
from actor.world.scenarios.todoist import TASKS, planned


def _longest_liked(rng: random.Random, setting: Setting) -> Draft:
    songs = rng.sample(setting.songs, rng.randint(PAGE + 3, 12))
    longest = max(songs, key=lambda song: song.duration)
    songs.remove(longest)
    songs.insert(rng.randint(0, len(songs) - PAGE), longest)  # liked early, so listed late
    return Draft(
        values={}, rows=likes(setting, songs), answer=longest.title, private={"candidates": [s.title for s in songs]}
    )


LIKED_LONGEST = Scenario(
    name="likedLongest",
    difficulty=2,
    instruction="What is the title of the longest song that I have liked on Spotify?",
    cells=(SPOTIFY_LOGIN, "s = $read\nprint(max(s, key=lambda x: x['duration'])['title'])", ANSWER),
    choices={
        "read": Choice(
            right=pages("spotify.show_liked_songs"), wrong=((first_page("spotify.show_liked_songs"), 1),), chance=0.5
        )
    },
    draft=_longest_liked,
    evaluate=question,
)


def _in_library(rng: random.Random, setting: Setting) -> Draft:
    count, other = rng.sample(range(PAGE + 1, 15), 2)
    songs = rng.sample(setting.songs, count + other)
    return Draft(
        values={},
        rows=library(setting, songs[:count]) + likes(setting, songs[count:]),
        answer=str(count),
        private={"candidates": [str(n) for n in range(1, 16)]},
    )


LIBRARY_COUNT = Scenario(
    name="libraryCount",
    difficulty=2,
    instruction="How many songs are in my Spotify song library?",
    cells=(SPOTIFY_LOGIN, "s = $read\nprint(len(s))", ANSWER),
    choices={
        "read": Choice(
            right=pages("spotify.show_song_library"), wrong=((first_page("spotify.show_song_library"), 1),), chance=0.5
        )
    },
    draft=_in_library,
    evaluate=question,
)


def _alarm(rng: random.Random, setting: Setting) -> Draft:
    rows, labels, times = alarms(rng, setting, enabled=True)
    asked = rng.choice([5, 6])  # on the second page
    return Draft(values={"label": labels[asked]}, rows=rows, answer=times[asked], private={"candidates": times})


ALARM_TIME = Scenario(
    name="alarmTime",
    difficulty=2,
    instruction="At what time is my alarm '$label' on my phone?",
    cells=(PHONE_LOGIN, "s = $read\nprint(next(x['$field'] for x in s if x['label'] == '$label'))", ANSWER),
    choices={
        "username": USERNAME,
        "read": Choice(right=pages("phone.show_alarms"), wrong=((first_page("phone.show_alarms"), 1),), chance=0.8),
        "field": Choice(right="time", wrong=(("alarm_id", 1),), chance=0.8),
    },
    draft=_alarm,
    evaluate=question,
)


def _due(rng: random.Random, setting: Setting) -> Draft:
    asked = rng.randrange(1, 4)
    rows, names, titles = planned(rng, setting, 4, asked)
    return Draft(values={"project": names[asked]}, rows=rows, answer=titles[-1], private={"candidates": titles})


DUE_LAST = Scenario(
    name="dueLast",
    difficulty=2,
    instruction="Which task of my Todoist project '$project' is due last?",
    cells=(
        TODOIST_LOGIN,
        FIND_PROJECT,
        f"{TASKS}\nprint($pick(s, key=lambda x: x['due_date'])['title'])",
        ANSWER,
    ),
    choices={
        "find": Choice(right=", query='$project'", wrong=(("", 1),), chance=0.85),
        "pick": Choice(right="max", wrong=(("min", 1),), chance=0.6),
    },
    draft=_due,
    evaluate=question,
)


def _times(rng: random.Random, setting: Setting) -> Draft:
    rows, names, members = groups(rng, setting)
    asked = rng.randrange(4)
    everybody = (setting.me, *members[asked])
    friend, others = members[asked][0], (setting.me, *members[asked][1:])
    # the newest is another's, the oldest two are on the second page and one of them is his
    payers = [others[0], friend, *(rng.choice(everybody) for _ in range(rng.randint(3, 5))), friend, others[1]]
    reasons = people.REASON.split()
    spent = [
        row
        for number, payer in enumerate(payers)
        for row in expense(
            number, FIRST_GROUP + asked, payer, everybody, (rng.choice((4, 8, 12, 16, 20)), rng.choice(reasons))
        )
    ]
    return Draft(
        values={"name": friend.name, "group": names[asked]},
        rows=(*rows, *spent),
        answer=str(payers.count(friend)),
        private={"candidates": [str(n) for n in range(1, 13)]},
    )


PAID_TIMES = Scenario(
    name="paidTimes",
    difficulty=2,
    instruction="How many expenses has '$name' paid in my Splitwise group '$group'?",
    cells=(
        SPLITWISE_LOGIN,
        FIND_GROUP,
        "n = g['group_id']\ns = $read\nprint(len([x for x in s$who]))",
        ANSWER,
    ),
    choices={
        "read": Choice(
            right=pages(SPENT, "group_id=n, "),
            wrong=((first_page(SPENT, "group_id=n, "), 1),),
            chance=0.7,
        ),
        "who": Choice(right=" if x['payer']['name'] == '$name'", wrong=(("", 1),), chance=0.7),
    },
    draft=_times,
    evaluate=question,
)


def _file_to_note(rng: random.Random, setting: Setting) -> Draft:
    contents = people.saying(rng, 6)
    rows, asked, _ = filed(rng, setting, contents)
    title, *titles = people.alike(rng, 4)
    return Draft(
        values={"file": asked, "title": title},
        rows=(*rows, *notes(setting, titles, people.saying(rng, 3))),
        private={"title": title, "content": contents[0]},
    )


FILE_NOTE = Scenario(
    name="fileNote",
    difficulty=3,
    instruction="Write a new note '$title' in SimpleNote that says what my file '$file' says.",
    cells=(
        logins("file_system", "simple_note"),
        f"{FIND_FILE}\nx = {READ}",
        f"apis.simple_note.create_note(title='$title', $what, access_token=u)\n{DONE}",
    ),
    choices={
        "find": Choice(right=NAMED, wrong=((NAMED_LIKE, 1),), chance=0.6),
        "what": Choice(right="content=x", wrong=(("content=''", 1),), chance=0.8),
    },
    draft=_file_to_note,
    evaluate=written,
)
