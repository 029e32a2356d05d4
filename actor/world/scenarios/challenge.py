"""Scenarios of test_challenge alone: never trained on, made of pieces that are seen in training in other company."""

from __future__ import annotations

import random

from actor.world.scenarios.form import ANSWER, Choice, Draft, Scenario, Setting, first_page, pages
from actor.world.scenarios.phone import LOGIN as PHONE_LOGIN
from actor.world.scenarios.phone import USERNAME, alarms
from actor.world.scenarios.spotify import LOGIN as SPOTIFY_LOGIN
from actor.world.scenarios.spotify import PAGE, library, likes
from actor.world.scenarios.tests import question


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
    asked = rng.randrange(1, len(labels))
    return Draft(values={"label": labels[asked]}, rows=rows, answer=times[asked], private={"candidates": times})


ALARM_TIME = Scenario(
    name="alarmTime",
    difficulty=3,
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
