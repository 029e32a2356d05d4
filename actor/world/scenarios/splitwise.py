"""What can be asked of Splitwise: sharing an expense with a group, what somebody paid in one, settling up."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from actor.world import people
from actor.world.catalogue import FIRST_EXPENSE, FIRST_GROUP
from actor.world.people import NOW, Person
from actor.world.scenarios.form import ANSWER, DONE, Choice, Draft, Row, Scenario, Setting, first_page, login, pages
from actor.world.scenarios.tests import question, touched

LOGIN = login("splitwise")
FIND = "s = apis.splitwise.show_groups(access_token=t)\ng = next(x for x in s if x['name'] == '$group')"


def groups(rng: random.Random, setting: Setting) -> tuple[tuple[Row, ...], list[str], list[tuple[Person, ...]]]:
    """Four groups with names that are alike, of the supervisor and three friends each: rows, names, friends."""
    names = people.alike(rng, 4)
    members = [tuple(rng.sample(setting.friends, 3)) for _ in names]
    rows: list[Row] = []
    for i, (name, friends) in enumerate(zip(names, members, strict=True)):
        since = NOW - timedelta(days=i + 40)
        fields = {
            "user_id": setting.me.id,
            "name": name,
            "invitation_code": f"new{i}",
            "created_at": since,
        }
        rows.append(Row(app="splitwise", model="Group", fields=fields))
        rows += [
            Row(
                app="splitwise",
                model="GroupMember",
                fields={"group_id": FIRST_GROUP + i, "user_id": person.id, "joined_at": since},
            )
            for person in (setting.me, *friends)
        ]
    return tuple(rows), names, members


def expense(
    number: int, group: int | None, payer: Person, owing: Sequence[Person], cost: tuple[int, str]
) -> tuple[Row, ...]:
    """One expense with equal shares. `number` counts a task's expenses from 0, the newest first."""
    amount, text = cost
    since = {"created_at": NOW - timedelta(days=number + 1)}
    fields = {"group_id": group, "user_id": payer.id, "payer_id": payer.id, "amount": amount}
    share = {"expense_id": FIRST_EXPENSE + number, "share_amount": amount / len(owing)}
    return (
        Row(app="splitwise", model="Expense", fields={**fields, **since, "description": text}),
        *(Row(app="splitwise", model="ExpenseShare", fields={**share, **since, "debtor_id": one.id}) for one in owing),
    )


def _to_record(rng: random.Random, setting: Setting) -> Draft:
    rows, names, members = groups(rng, setting)
    asked = rng.randrange(4)
    amount, reason = rng.choice((20, 40, 60, 80)), rng.choice(people.REASON.split())
    owing = sorted(person.id for person in (setting.me, *members[asked]))
    return Draft(
        values={"group": names[asked], "amount": str(amount), "reason": reason},
        rows=rows,
        private={
            "group_id": FIRST_GROUP + asked,
            "payer_id": setting.me.id,
            "amount": amount,
            "reason": reason,
            "owing": owing,
        },
    )


def recorded(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("splitwise.Expense")
    with test("the expense says who paid how much for what"):
        found = [(row.payer_id, row.amount, row.description) for row in added]
        test.case(found, "==", [(private_data["payer_id"], private_data["amount"], private_data["reason"])])
    with test("the expense is one of that group, shared by all members"):
        test.case([row.group_id for row in added], "==", [private_data["group_id"]])
        shares, _, _ = models.changed_records("splitwise.ExpenseShare")
        test.case(sorted(row.debtor_id for row in shares), "==", private_data["owing"])
    with test("an expense was recorded, nothing else was changed, and the task was completed without an answer"):
        counts = {"Expense": [1, 0, 0], "ExpenseShare": [4, 0, 0], "Notification": [3, 0, 0]}
        test.case(touched(models), "==", {f"splitwise.{name}": count for name, count in counts.items()})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


EMAILS = "e = [x['email'] for x in g['members']]"
COST = "description='$reason', paid_amount=$amount, payer_email=me['email']"

ADD_EXPENSE = Scenario(
    name="addExpense",
    difficulty=2,
    instruction="Record in my Splitwise group '$group' that I paid $amount dollars for '$reason', shared by all.",
    cells=(
        LOGIN,
        FIND,
        f"{EMAILS}\napis.splitwise.record_expense({COST}, debtor_emails=e$where, access_token=t)\n{DONE}",
    ),
    choices={"where": Choice(right=", group_id=g['group_id']", wrong=(("", 1),), chance=0.36)},
    draft=_to_record,
    evaluate=recorded,
)


def _paid(rng: random.Random, setting: Setting) -> Draft:
    rows, names, members = groups(rng, setting)
    asked = rng.randrange(4)
    everybody = (setting.me, *members[asked])
    friend = rng.choice(members[asked])
    # the asked one pays last and first, so his oldest expense is on the second page
    payers = [
        friend,
        *(rng.choice(everybody) for _ in range(rng.randint(4, 6))),
        setting.me,
        friend,
    ]
    reasons = people.REASON.split()
    amounts = [rng.choice((4, 8, 12, 16, 20)) for _ in payers]
    spent = [
        row
        for number, (payer, amount) in enumerate(zip(payers, amounts, strict=True))
        for row in expense(number, FIRST_GROUP + asked, payer, everybody, (amount, rng.choice(reasons)))
    ]
    elsewhere = expense(len(payers), None, friend, (setting.me, friend), (24, "taxi"))
    total = sum(amount for payer, amount in zip(payers, amounts, strict=True) if payer is friend)
    return Draft(
        values={"name": friend.name, "group": names[asked]},
        rows=(*rows, *spent, *elsewhere),
        answer=str(total),
        private={"candidates": [str(n) for n in range(4, 200, 4)]},
    )


SPENT = "splitwise.show_group_expenses"

PAID_IN_GROUP = Scenario(
    name="paidInGroup",
    difficulty=2,
    instruction="How many dollars has '$name' paid in my Splitwise group '$group' in total?",
    cells=(LOGIN, FIND, "n = g['group_id']\ns = $read\nprint(int(sum(x['paid_amount'] for x in s$who)))", ANSWER),
    choices={
        "read": Choice(right=pages(SPENT, "group_id=n, "), wrong=((first_page(SPENT, "group_id=n, "), 1),), chance=0.8),
        "who": Choice(right=" if x['payer']['name'] == '$name'", wrong=(("", 1),), chance=0.8),
    },
    draft=_paid,
    evaluate=question,
)


def _to_settle(rng: random.Random, setting: Setting) -> Draft:
    rows, names, members = groups(rng, setting)
    asked = rng.randrange(4)
    friend, other, _ = members[asked]
    shared, apart = rng.sample((8, 16, 24, 32, 40), 2)
    spent = (
        *expense(0, FIRST_GROUP + asked, friend, (setting.me, *members[asked]), (shared, "rent")),
        *expense(1, FIRST_GROUP + asked, other, (setting.me, other), (12, "pizza")),
        *expense(2, None, friend, (setting.me, friend), (apart, "taxi")),
    )
    return Draft(
        values={"name": friend.name, "group": names[asked]},
        rows=(*rows, *spent),
        private={"group_id": FIRST_GROUP + asked, "receiver_id": friend.id, "amount": shared / 4},
    )


def settled(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("splitwise.Payment")
    with test("what was owed was paid to that person"):
        test.case([row.receiver_id for row in added], "==", [private_data["receiver_id"]])
        test.case([row.amount for row in added], "==", [private_data["amount"]])
    with test("it was paid in that group"):
        test.case([row.group_id for row in added], "==", [private_data["group_id"]])
    with test("a payment was recorded, nothing else was changed, and the task was completed without an answer"):
        test.case(touched(models), "==", {"splitwise.Notification": [1, 0, 0], "splitwise.Payment": [1, 0, 0]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


EMAIL = "e = next(x['email'] for x in g['members'] if x['name'] == '$name')"

SETTLE_UP = Scenario(
    name="settleUp",
    difficulty=2,
    instruction="Settle up with '$name' in my Splitwise group '$group'.",
    cells=(
        LOGIN,
        FIND,
        f"{EMAIL}\napis.splitwise.settle_up(email=e$where, access_token=t)\n{DONE}",
    ),
    choices={"where": Choice(right=", group_id=g['group_id']", wrong=(("", 1),), chance=0.4)},
    draft=_to_settle,
    evaluate=settled,
)
