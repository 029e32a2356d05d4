"""The invented people, songs and words that every world is made of, and the rows of the base databases.

Flows in: a seed. Flows out: a `Cast`. Pools are small and of short common words, shared by all splits: what differs
between tasks is who, which and how much. Runs in AppWorld's virtualenv too, so the standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

NOW = datetime(2023, 5, 18, 12, 0, 0)  # noqa: DTZ001 - the engine's clock has no time zone

FIRST = "Ada Ben Cleo Dan Eva Finn Gus Hana Ivan June Kai Lena Max Nora Omar Pia"
LAST = "Moss Reed Lane Park Stone Wood Hill Fox Lake Bell Cole Dale Frost Gray Hart King"
TONE = "Silver Golden Quiet Broken Little Lonely Hidden Burning Frozen Gentle Midnight Summer"
THING = "River Garden Mirror Letter Shadow Engine Island Window Planet Tiger Harbor Valley"
TOPIC = "Trip Book Movie Party Work House Car Food School Gift Music Budget"
KIND = "Plan Ideas List Notes"
VERB = "bring buy check clean find fix move paint"
OBJECT = "lamp tickets roses boat keys fence piano chairs ladder camera basket blanket"
REASON = "pizza rent coffee taxi lunch tickets dinner gifts"
CITY = "Marlow Ashby Dover Salem Linden Fairview Kingston Milton Oakdale Burton Weston Norwood"
STATE = "Ohio Texas Maine Utah Iowa Nevada Oregon Kansas"
STREET = "Oak Pine Elm Maple Cedar Birch Main High Mill"
LABEL = "Gym School Medicine Walk Meeting Laundry Bus Yoga Baking Study"
DOLLARS = (5, 10, 15, 20, 25, 30, 35, 40, 50, 60, 75, 90)
CARDS = ("Visa", "MasterCard", "Discover", "Chase", "HSBC")
ACCOUNTS = (
    "amazon",
    "phone",
    "file_system",
    "spotify",
    "venmo",
    "gmail",
    "splitwise",
    "simple_note",
    "todoist",
)
GENRES = ("pop", "rock", "jazz", "folk")
STUFF = "Copper Steel Wooden Bamboo Cotton Glass"
WARE = "Lamp Kettle Chair Clock Basket Blanket Mug Pillow"
NAMES = 12  # first names in use, and last names: fewer than people, so that some share one
PEOPLE = 20
SUPERVISORS = 8
PRODUCTS = 40
SELLERS = 6


@dataclass(frozen=True, kw_only=True)
class Person:
    """One invented person, the same in every app. `id` is the row's id in all of them."""

    id: int
    first_name: str
    last_name: str
    email: str
    phone_number: str
    birthday: str
    sex: str
    passwords: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        return f"{self.first_name} {self.last_name}"


@dataclass(frozen=True, kw_only=True)
class Song:
    """One song of the catalogue. `id` is its row's id."""

    id: int
    title: str
    artist_id: int
    duration: int
    genre: str


@dataclass(frozen=True, kw_only=True)
class Product:
    """One thing that amazon sells. `id` is its row's id, `price` in whole dollars, no two alike."""

    id: int
    name: str
    product_type: str
    seller_id: int
    price: int
    rating: float


@dataclass(frozen=True, kw_only=True)
class Cast:
    """All that is in the base world. The first `supervisors` people give tasks; `known` maps them to their contacts."""

    people: tuple[Person, ...]
    supervisors: int
    known: tuple[tuple[int, ...], ...]
    artists: tuple[str, ...]
    songs: tuple[Song, ...]
    sellers: tuple[str, ...]
    products: tuple[Product, ...]


def pairs(rng: random.Random, left: str, right: str, count: int) -> list[str]:
    """`count` different two-word names, in no order."""
    return rng.sample([f"{a} {b}" for a in left.split() for b in right.split()], count)


def saying(rng: random.Random, count: int) -> list[str]:
    """`count` different short sentences, e.g. "fix the lamp"."""
    return rng.sample([f"{verb} the {thing}" for verb in VERB.split() for thing in OBJECT.split()], count)


def alike(rng: random.Random, count: int) -> list[str]:
    """`count` different names such as "Trip Plan", made of so few words that most share one."""
    return pairs(rng, " ".join(rng.sample(TOPIC.split(), 3)), KIND, count)


def sayings_alike(rng: random.Random, count: int) -> list[str]:
    """`count` different short sentences, e.g. "fix the lamp", most of which share a word."""
    verbs, things = rng.sample(VERB.split(), 3), rng.sample(OBJECT.split(), 4)
    return rng.sample([f"{verb} the {thing}" for verb in verbs for thing in things], count)


def make_cast(seed: int, supervisors: int = SUPERVISORS, songs: int = 60) -> Cast:
    """The people, songs and products of a world, a pure function of its arguments."""
    rng = random.Random(seed)  # noqa: S311 - invented data, not secrets
    firsts, lasts = rng.sample(FIRST.split(), NAMES), rng.sample(LAST.split(), NAMES)
    # those after the first NAMES share their first name with one of them and their last name with another
    names = [(firsts[i % NAMES], lasts[(i + i // NAMES) % NAMES]) for i in range(PEOPLE)]
    numbers = rng.sample(range(100000, 999999), PEOPLE)
    people = tuple(
        _person(rng, index + 1, first, last, str(number))
        for index, ((first, last), number) in enumerate(zip(names, numbers, strict=True))
    )
    known = tuple(tuple(rng.sample([p.id for p in people if p.id != me], 9)) for me in range(1, supervisors + 1))
    # no word of an artist's name is in a title: a search for a title ranks its song first
    artists = tuple(f"{word} Band" for word in rng.sample(CITY.split(), 10))
    durations = rng.sample(range(100, 400), songs)
    catalogue = tuple(
        Song(id=i + 1, title=title, artist_id=rng.randint(1, len(artists)), duration=duration, genre=rng.choice(GENRES))
        for i, (title, duration) in enumerate(zip(pairs(rng, TONE, THING, songs), durations, strict=True))
    )
    sellers = tuple(f"{word} Store" for word in rng.sample(CITY.split(), SELLERS))
    return Cast(
        people=people,
        supervisors=supervisors,
        known=known,
        artists=artists,
        songs=catalogue,
        sellers=sellers,
        products=_products(rng),
    )


def _products(rng: random.Random) -> tuple[Product, ...]:
    prices = rng.sample(range(6, 150), PRODUCTS)
    return tuple(
        Product(
            id=i + 1,
            name=name,
            product_type=name.split()[1].lower(),
            seller_id=rng.randint(1, SELLERS),
            price=price,
            rating=rng.randint(20, 50) / 10,
        )
        for i, (name, price) in enumerate(zip(pairs(rng, STUFF, WARE, PRODUCTS), prices, strict=True))
    )


def _person(rng: random.Random, number: int, first: str, last: str, phone: str) -> Person:
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return Person(
        id=number,
        first_name=first,
        last_name=last,
        email=f"{first}.{last}@mail.com".lower(),
        phone_number=phone,
        birthday=f"{rng.randint(1960, 2004)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
        sex=rng.choice(["male", "female"]),
        passwords=tuple((app, "".join(rng.choices(letters, k=9))) for app in ACCOUNTS),
    )


Rows = Iterator[tuple[str, str, list[dict[str, Any]]]]
LONG_AGO = NOW - timedelta(days=300)


def base_rows(cast: Cast) -> Rows:
    """(app, model, records) in an order in which every reference exists before it is used. Ids follow the order."""
    names = [{"first_name": p.first_name, "last_name": p.last_name, "email": p.email} for p in cast.people]
    yield from _accounts(cast, names)
    yield from _friends(cast, names)
    yield (
        "spotify",
        "Artist",
        [
            {"name": name, "genre": GENRES[i % len(GENRES)], "created_at": LONG_AGO}
            for i, name in enumerate(cast.artists)
        ],
    )
    songs = [
        {"title": s.title, "artist_ids": [s.artist_id], "duration": s.duration, "genre": s.genre} for s in cast.songs
    ]
    yield "spotify", "Song", [{**song, "release_date": LONG_AGO} for song in songs]


def _accounts(cast: Cast, names: list[dict[str, str]]) -> Rows:
    since = {"created_at": LONG_AGO, "last_logged_in": LONG_AGO}
    more = [{"phone_number": p.phone_number, "birthday": p.birthday, "sex": p.sex} for p in cast.people]
    users = [{**name, **rest} for name, rest in zip(names, more, strict=True)]
    yield "admin", "MainUser", users[: cast.supervisors]  # the engine wants no two first names alike among them
    for app in (account for account in ACCOUNTS if account != "phone"):
        extra = {"venmo_balance": 500} if app == "venmo" else {}
        verified = {} if app == "gmail" else {"verified": True}
        passwords = [{"password": dict(p.passwords)[app], **verified} for p in cast.people]
        yield app, "User", [{**name, **since, **extra, **rest} for name, rest in zip(names, passwords, strict=True)]
    owners = [
        {"first_name": p.first_name, "last_name": p.last_name, "password": dict(p.passwords)["phone"]}
        for p in cast.people
    ]
    numbers = [p.phone_number for p in cast.people]
    yield (
        "phone",
        "User",
        [{**user, **since, "phone_number": number} for user, number in zip(owners, numbers, strict=True)],
    )


def _friends(cast: Cast, names: list[dict[str, str]]) -> Rows:
    known = [
        (me, other, LONG_AGO + timedelta(days=rank))
        for me, others in enumerate(cast.known, start=1)
        for rank, other in enumerate(others)
    ]
    phone = {p.id: {"phone_number": p.phone_number, "relationships": ["friend"]} for p in cast.people}
    contacts = [{**names[other - 1], **phone[other], "user_id": me, "created_at": since} for me, other, since in known]
    yield "phone", "Contact", contacts
    friends = [{"user_id": me, "friend_id": other, "created_at": since} for me, other, since in known]
    yield "venmo", "Friendship", friends
