"""What can be asked of Venmo: paying a friend, asking one for money, what was sent in total."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from typing import Any

from actor.world import people
from actor.world.people import NOW
from actor.world.scenarios.form import ANSWER, DONE, Choice, Draft, Row, Scenario, Setting, first_page, login, pages
from actor.world.scenarios.tests import question, touched

LOGIN = login("venmo")
FIND = "e = apis.venmo.search_friends(access_token=t$find)[0]['email']"
MONEY = "receiver_email=e, amount=$amount"
REQUEST = "user_email=e, amount=$amount"


def _to_pay(rng: random.Random, setting: Setting) -> Draft:
    friend = rng.choice(setting.friends[1:-1])
    amount, reason = rng.choice(people.DOLLARS), rng.choice(people.REASON.split())
    private = {"friend_id": friend.id, "amount": amount, "reason": reason}
    return Draft(values={"name": friend.name, "amount": str(amount), "reason": reason}, private=private)


def paid(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("venmo.Transaction")
    with test("that amount went to that person"):
        sent = [(row.receiver_id, row.amount) for row in added]
        test.case(sent, "==", [(private_data["friend_id"], private_data["amount"])])
    with test("the payment says what it is for"):
        test.case([row.description for row in added], "==", [private_data["reason"]])
    with test("a payment was made, nothing else was changed, and the task was completed without an answer"):
        counts = {"Notification": [1, 0, 0], "Transaction": [1, 0, 0], "User": [0, 2, 0]}
        test.case(touched(models), "==", {f"venmo.{name}": count for name, count in counts.items()})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


def paid_plainly(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("venmo.Transaction")
    with test("that amount went to that person"):
        sent = [(row.receiver_id, row.amount) for row in added]
        test.case(sent, "==", [(private_data["friend_id"], private_data["amount"])])
    with test("a payment was made, nothing else was changed, and the task was completed without an answer"):
        counts = {"Notification": [1, 0, 0], "Transaction": [1, 0, 0], "User": [0, 2, 0]}
        test.case(touched(models), "==", {f"venmo.{name}": count for name, count in counts.items()})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


PAY_FRIEND = Scenario(
    name="payFriend",
    difficulty=2,
    instruction="Send $amount dollars to '$name' on Venmo for '$reason'.",
    cells=(LOGIN, FIND, f"apis.venmo.$verb$note, access_token=t)\n{DONE}"),
    choices={
        "find": Choice(right=", query='$name'", wrong=(("", 1),), chance=0.92),
        "verb": Choice(
            right=f"create_transaction({MONEY}", wrong=((f"create_payment_request({REQUEST}", 1),), chance=0.92
        ),
        "note": Choice(right=", description='$reason'", wrong=(("", 1),), chance=0.4),
    },
    draft=_to_pay,
    evaluate=paid,
)


def requested(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("venmo.PaymentRequest")
    with test("that amount was asked of that person"):
        asked = [(row.receiver_id, row.amount) for row in added]
        test.case(asked, "==", [(private_data["friend_id"], private_data["amount"])])
    with test("the request says what it is for"):
        test.case([row.description for row in added], "==", [private_data["reason"]])
    with test("a request was made, nothing else was changed, and the task was completed without an answer"):
        test.case(touched(models), "==", {"venmo.Notification": [1, 0, 0], "venmo.PaymentRequest": [1, 0, 0]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


ASK_FRIEND = Scenario(
    name="requestMoney",
    difficulty=2,
    instruction="Request $amount dollars from '$name' on Venmo for '$reason'.",
    cells=(LOGIN, FIND, f"apis.venmo.$verb$note, access_token=t)\n{DONE}"),
    choices={
        "find": Choice(right=", query='$name'", wrong=(("", 1),), chance=0.92),
        "verb": Choice(
            right=f"create_payment_request({REQUEST}", wrong=((f"create_transaction({MONEY}", 1),), chance=0.4
        ),
        "note": Choice(right=", description='$reason'", wrong=(("", 1),), chance=0.92),
    },
    draft=_to_pay,
    evaluate=requested,
)


def _history(rng: random.Random, setting: Setting) -> Draft:
    friend, other = rng.sample(setting.friends[1:-1], 2)
    sent = [rng.choice((5, 10, 15, 20)) for _ in range(rng.randint(2, 4))]
    flows = [(setting.me, friend, amount) for amount in sent]
    flows += [(friend, setting.me, rng.choice((5, 10))) for _ in range(2)]
    flows += [(setting.me, other, rng.choice((5, 10))) for _ in range(2)]
    while True:
        rng.shuffle(flows)
        newest = [flow for flow in flows if friend in flow][:5]
        if sum(amount for *_, amount in newest) != sum(sent):  # else one page of both directions is right by luck
            break
    rows = tuple(
        Row(
            app="venmo",
            model="Transaction",
            fields={
                "sender_id": sender.id,
                "receiver_id": receiver.id,
                "amount": amount,
                "description": rng.choice(people.REASON.split()),
                "created_at": NOW - timedelta(days=i + 1),
                "updated_at": NOW - timedelta(days=i + 1),
            },
        )
        for i, (sender, receiver, amount) in enumerate(flows)
    )
    return Draft(
        values={"name": friend.name},
        rows=rows,
        answer=str(sum(sent)),
        private={"candidates": [str(n) for n in range(5, 100, 5)]},
    )


HISTORY = "venmo.show_transactions"

TOTAL_SENT = Scenario(
    name="totalSent",
    difficulty=2,
    instruction="How many dollars have I sent to '$name' on Venmo in total?",
    cells=(LOGIN, FIND, "s = $read\nprint(int(sum(x['amount'] for x in s)))", ANSWER),
    choices={
        "find": Choice(right=", query='$name'", wrong=(("", 1),), chance=0.92),
        "read": Choice(
            right=pages(HISTORY, "user_email=e, direction='sent', "),
            wrong=(
                (pages(HISTORY, "user_email=e, "), 5),
                (first_page(HISTORY, "user_email=e, "), 1),
                (pages(HISTORY, "direction='sent', "), 1),
            ),
            chance=0.3,
        ),
    },
    draft=_history,
    evaluate=question,
)
