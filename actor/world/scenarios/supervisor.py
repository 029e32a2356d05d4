"""What can be asked of the supervisor app: no login, one call. The first things a policy learns."""

from __future__ import annotations

import random

from actor.world import people
from actor.world.scenarios.form import ANSWER, Choice, Draft, Row, Scenario, Setting
from actor.world.scenarios.tests import question


def _city(rng: random.Random, _: Setting) -> Draft:
    cities = rng.sample(people.CITY.split(), 2)
    states = rng.sample(people.STATE.split(), 2)
    places = ["Home", "Work"]
    rows = tuple(
        Row(
            app="supervisor",
            model="Address",
            fields={
                "supervisor_id": 1,
                "name": place,
                "street_address": f"{rng.randint(1, 99)} {rng.choice(people.STREET.split())} Street",
                "city": city,
                "state": state,
                "country": "USA",
                "zip_code": rng.randint(10000, 99999),
            },
        )
        for place, city, state in zip(places, cities, states, strict=True)
    )
    asked = rng.randrange(2)
    return Draft(
        values={"place": places[asked], "other": places[1 - asked]},
        rows=rows,
        answer=cities[asked],
        private={"candidates": cities},
    )


HOME_CITY = Scenario(
    name="addressCity",
    difficulty=1,
    instruction="In which city is my '$place' address?",
    cells=("print(next(a['$field'] for a in apis.supervisor.show_addresses() if a['name'] == '$which'))", ANSWER),
    choices={
        "field": Choice(right="city", wrong=(("state", 1),), chance=0.75),
        "which": Choice(right="$place", wrong=(("$other", 1),), chance=0.9),
    },
    draft=_city,
    evaluate=question,
)


def _cards(rng: random.Random, setting: Setting) -> Draft:
    names = rng.sample(people.CARDS, 4)
    years = rng.sample(range(2024, 2040), len(names))
    months = rng.sample(range(1, 13), len(names))
    rows = tuple(
        Row(
            app="supervisor",
            model="PaymentCard",
            fields={
                "supervisor_id": 1,
                "owner_name": setting.me.name,
                "card_name": name,
                "card_number": rng.randint(10**15, 10**16 - 1),
                "expiry_year": year,
                "expiry_month": month,
                "cvv_number": rng.randint(100, 999),
            },
        )
        for name, year, month in zip(names, years, months, strict=True)
    )
    asked = rng.randrange(1, len(names))
    return Draft(
        values={"card": names[asked], "other": names[0]},
        rows=rows,
        answer=str(years[asked]),
        private={"candidates": [str(year) for year in years]},
    )


CARD_YEAR = Scenario(
    name="cardYear",
    difficulty=1,
    instruction="In which year does my '$card' card expire?",
    cells=(
        "print(next(c['$field'] for c in apis.supervisor.show_payment_cards() if c['card_name'] == '$which'))",
        ANSWER,
    ),
    choices={
        "field": Choice(right="expiry_year", wrong=(("expiry_month", 1),), chance=0.4),
        "which": Choice(right="$card", wrong=(("$other", 1),), chance=0.9),
    },
    draft=_cards,
    evaluate=question,
)
