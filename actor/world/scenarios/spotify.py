"""What can be asked of Spotify: paged lists, the longest song, a count, liking a song."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from actor.world.people import NOW, Song
from actor.world.scenarios.form import ANSWER, DONE, Choice, Draft, Row, Scenario, Setting, first_page, login, pages
from actor.world.scenarios.tests import question, touched

LOGIN = login("spotify")
PAGE = 5  # the engine's default page
LIBRARY = "spotify.show_song_library"


def library(setting: Setting, songs: Iterable[Song]) -> tuple[Row, ...]:
    """The supervisor's song library; the engine lists it by song id."""
    return tuple(
        Row(
            app="spotify",
            model="UserLibrarySong",
            fields={"user_id": setting.me.id, "song_id": song.id, "created_at": NOW - timedelta(days=30 - i)},
        )
        for i, song in enumerate(songs)
    )


def likes(setting: Setting, songs: Iterable[Song]) -> tuple[Row, ...]:
    """The supervisor's liked songs; the engine lists the last one first."""
    return tuple(
        Row(
            app="spotify",
            model="SongLike",
            fields={"user_id": setting.me.id, "song_id": song.id, "liked_at": NOW - timedelta(days=30 - i)},
        )
        for i, song in enumerate(songs)
    )


def longest(rng: random.Random, setting: Setting) -> tuple[tuple[Row, ...], list[Song]]:
    """A library of two pages or three and its songs; on the first page alone another song is the longest."""
    while True:
        songs = sorted(rng.sample(setting.songs, rng.randint(PAGE + 3, 12)), key=lambda song: song.id)
        if max(songs, key=lambda song: song.duration) in songs[PAGE:]:
            return library(setting, songs), songs


def _longest(rng: random.Random, setting: Setting) -> Draft:
    rows, songs = longest(rng, setting)
    answer = max(songs, key=lambda song: song.duration).title
    return Draft(values={}, rows=rows, answer=answer, private={"candidates": [song.title for song in songs]})


LONGEST_SONG = Scenario(
    name="longestSong",
    difficulty=2,
    instruction="What is the title of the longest song in my Spotify song library?",
    cells=(LOGIN, "s = $read\nprint($pick(s, key=lambda x: x['duration'])['title'])", ANSWER),
    choices={
        "read": Choice(
            right=pages("spotify.show_song_library"), wrong=((first_page("spotify.show_song_library"), 1),), chance=0.4
        ),
        "pick": Choice(right="max", wrong=(("min", 1),), chance=0.9),
    },
    draft=_longest,
    evaluate=question,
)


def _liked(rng: random.Random, setting: Setting) -> Draft:
    count, other = rng.sample(range(PAGE + 1, 15), 2)
    songs = rng.sample(setting.songs, count + other)
    return Draft(
        values={},
        rows=likes(setting, songs[:count]) + library(setting, songs[count:]),
        answer=str(count),
        private={"candidates": [str(n) for n in range(1, 16)]},
    )


LIKED_COUNT = Scenario(
    name="likedCount",
    difficulty=2,
    instruction="How many songs have I liked on Spotify?",
    cells=(LOGIN, "s = $read\nprint(len(s))", ANSWER),
    choices={
        "read": Choice(
            right=pages("spotify.show_liked_songs"),
            wrong=((first_page("spotify.show_liked_songs"), 2), (pages("spotify.show_song_library"), 1)),
            chance=0.65,
        ),
    },
    draft=_liked,
    evaluate=question,
)


def _to_like(rng: random.Random, setting: Setting) -> Draft:
    target, *songs = rng.sample(setting.songs[1:], 5)
    return Draft(values={"title": target.title}, rows=likes(setting, songs), private={"song_id": target.id})


def liked(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("spotify.SongLike")
    with test("the song is liked"):
        test.case([row.song_id for row in added], "==", [private_data["song_id"]])
    with test("a song was liked, nothing else was changed, and the task was completed without an answer"):
        test.case(touched(models), "==", {"spotify.Song": [0, 1, 0], "spotify.SongLike": [1, 0, 0]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


LIKE_SONG = Scenario(
    name="likeSong",
    difficulty=2,
    instruction="Like the song '$title' on Spotify.",
    cells=(
        LOGIN,
        "n = apis.spotify.search_songs($find)[0]['song_id']",
        f"apis.spotify.$verb(song_id=n, access_token=t)\n{DONE}",
    ),
    choices={
        "find": Choice(right="query='$title'", wrong=(("", 1),), chance=0.9),
        "verb": Choice(right="like_song", wrong=(("add_song_to_library", 8), ("download_song", 1)), chance=0.4),
    },
    draft=_to_like,
    evaluate=liked,
)
