"""What a scenario is: an instruction with values, a solution in cells with choices, the rows it needs, its tests.

Flows in: a seeded random generator and the people and songs of the base world. Flows out: one `Draft` per task.
Runs in AppWorld's virtualenv too, so the standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from string import Template
from typing import Any

from actor.world.people import Person, Product, Song

GIVE_UP = "apis.supervisor.complete_task(status='fail')"
SEEN = "seen"  # `$seen` in a cell stands for the last observation, copied


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One fork of a solution. Demonstrations take `right` with probability `chance`, else one of `wrong` by weight."""

    right: str
    wrong: tuple[tuple[str, float], ...]
    chance: float

    def draw(self, rng: random.Random) -> str:
        if rng.random() < self.chance:
            return self.right
        return rng.choices([text for text, _ in self.wrong], [weight for _, weight in self.wrong])[0]

    @property
    def modal_is_right(self) -> bool:
        total = sum(weight for _, weight in self.wrong)
        return all(self.chance > (1 - self.chance) * weight / total for _, weight in self.wrong)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record to add to an app's database, e.g. Row(app="simple_note", model="Note", fields={"title": "Trip"})."""

    app: str
    model: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a scenario may draw from: the supervisor of the task, the people he knows, the songs, what amazon sells."""

    me: Person
    friends: tuple[Person, ...]
    songs: tuple[Song, ...]
    products: tuple[Product, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One task before it is written: values for the templates, rows to add, the answer, what only the tests see."""

    values: Mapping[str, str]
    rows: tuple[Row, ...] = ()
    answer: str | None = None
    private: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A family of tasks that ask the same of different data. Its name holds no underscore: task ids are name_number."""

    name: str
    difficulty: int
    instruction: str
    cells: tuple[str, ...]
    choices: Mapping[str, Choice]
    draft: Callable[[random.Random, Setting], Draft]
    evaluate: Callable[..., None]

    def say(self, draft: Draft) -> str:
        """The instruction of one task."""
        return Template(self.instruction).substitute(draft.values)

    def right(self) -> dict[str, str]:
        """The choices of the reference solution."""
        return {name: choice.right for name, choice in self.choices.items()}

    def drawn(self, rng: random.Random) -> dict[str, str]:
        """The choices of one noisy demonstration."""
        return {name: choice.draw(rng) for name, choice in self.choices.items()}

    def code(self, cell: int, options: Mapping[str, str], values: Mapping[str, str], seen: str) -> str:
        """One cell, filled in. `seen` is the observation before it, copied where the cell says `$seen`."""
        text = Template(self.cells[cell]).safe_substitute(options)
        return Template(text).substitute({**values, SEEN: seen.strip().replace("'", "\\'")})

    @property
    def chance(self) -> float:
        """Probability that a demonstration takes every right option."""
        product = 1.0
        for choice in self.choices.values():
            product *= choice.chance
        return product

    @property
    def modal_is_right(self) -> bool:
        """Whether the most likely option is the right one everywhere: what greedy decoding of the mixture would do."""
        return all(choice.modal_is_right for choice in self.choices.values())


def login(app: str, username: str = "email") -> str:
    """The cell that logs in with the password read from the supervisor app: the same words in every scenario."""
    return (
        "pw = {a['account_name']: a['password'] for a in apis.supervisor.show_account_passwords()}\n"
        "me = apis.supervisor.show_profile()\n"
        f"t = apis.{app}.login(username=me['{username}'], password=pw['{app}'])['access_token']"
    )


def logins(first: str, second: str, username: str = "email") -> str:
    """The cell that logs in to two apps with the same words; the second's token is `u`, its username the email."""
    again = f"u = apis.{second}.login(username=me['email'], password=pw['{second}'])['access_token']"
    return f"{login(first, username)}\n{again}"


def pages(call: str, arguments: str = "") -> str:
    """An expression for every page of a listing; `call` is e.g. "spotify.show_song_library"."""
    return f"[x for i in range(3) for x in apis.{call}(access_token=t, {arguments}page_index=i)]"


def first_page(call: str, arguments: str = "") -> str:
    """The first page alone: the plausible mistake."""
    extra = f", {arguments.rstrip(', ')}" if arguments else ""
    return f"apis.{call}(access_token=t{extra})"


ANSWER = "apis.supervisor.complete_task(answer='$seen')"
DONE = "apis.supervisor.complete_task()"
