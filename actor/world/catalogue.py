"""Base rows of the apps that hold more than people: amazon, gmail, file_system, splitwise, todoist.

Flows in: a `Cast`. Flows out: rows in an order in which every reference exists before it is used. All of it is old and
settled: nothing is unread, due or owed that a task could ask about by mistake. Runs in AppWorld's virtualenv too, so
the standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from actor.world.people import LONG_AGO, PEOPLE, SUPERVISORS, Cast, Person, Rows

FOLDERS = ("documents", "downloads", "photos")
OLD_MAILS = (("Welcome back", "it was good to see you"), ("Old photos", "here they are"), ("Thank you", "for all"))
OLD_COSTS = (("cleaning", 30), ("repairs", 60))
# ids of what a task adds begin after the base's: the engine counts on by itself
FIRST_PROJECT = PEOPLE + SUPERVISORS + 1
FIRST_GROUP = SUPERVISORS + 1
FIRST_MAIL = len(OLD_MAILS) * SUPERVISORS + 1
FIRST_EXPENSE = len(OLD_COSTS) * SUPERVISORS + 1


def catalogue_rows(cast: Cast) -> Rows:
    """(app, model, records). Ids follow the order; a person's inbox project in todoist has the person's id."""
    yield from _shop(cast)
    yield from _mails(cast)
    yield from _folders(cast)
    yield from _costs(cast)
    yield from _projects(cast)


def _shop(cast: Cast) -> Rows:
    yield "amazon", "Deliverer", [{"name": name} for name in ("UPS", "USPS", "FedEx")]
    yield "amazon", "Seller", [{"name": name, "rating": 4.0} for name in cast.sellers]
    products = [
        {
            "name": p.name,
            "product_type": p.product_type,
            "description": f"For every home, made with care: {p.name.lower()}.",
            "seller_id": p.seller_id,
            "price": p.price,
            "rating": p.rating,
            "seller_rating": 4.0,
            "delivery_days": 1 + p.id % 7,
            "inventory_quantity": 50,
            "weight": 1,
            "length": 10,
            "width": 10,
            "height": 10,
        }
        for p in cast.products
    ]
    yield "amazon", "Product", products


def _mails(cast: Cast) -> Rows:
    """Three old mails to every supervisor, each read and a thread of its own."""
    sent = [
        (cast.people[cast.known[me.id - 1][i] - 1], me, subject, body, LONG_AGO + timedelta(days=i))
        for me in _supervisors(cast)
        for i, (subject, body) in enumerate(OLD_MAILS)
    ]
    yield (
        "gmail",
        "Email",
        [
            {"sender_id": a.id, "recipient_ids": [b.id], "subject": subject, "body": body, "created_at": at}
            for a, b, subject, body, at in sent
        ],
    )
    times = [{"created_at": at, "updated_at": at} for *_, at in sent]
    yield "gmail", "GlobalEmailThread", [{"email_ids": [i], **at} for i, at in enumerate(times, start=1)]
    threads = [
        {"global_email_thread_id": i, "user_id": user.id, "email_ids": [i], "read": True, **at}
        for i, ((a, b, *_), at) in enumerate(zip(sent, times, strict=True), start=1)
        for user in (a, b)
    ]
    yield "gmail", "UserEmailThread", [{**thread, "incoming": False, "outgoing": False} for thread in threads]


def _folders(cast: Cast) -> Rows:
    since = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
    paths = [(p.id, path) for p in cast.people for path in ("/", "/home/", home(p), *folders(p))]
    yield "file_system", "Directory", [{"user_id": owner, "path": path, **since} for owner, path in paths]
    texts = [{"user_id": p.id, "path": f"{home(p)}welcome.txt", "content": "your files live here"} for p in cast.people]
    yield "file_system", "File", [{**text, **since} for text in texts]


def home(person: Person) -> str:
    """A person's home folder, as the engine names it."""
    return f"/home/{person.first_name.lower()}/"


def folders(person: Person) -> Iterator[str]:
    """The folders that everybody has in his home."""
    return (f"{home(person)}{name}/" for name in FOLDERS)


def _costs(cast: Cast) -> Rows:
    """A group of three with two old costs, paid back long ago, for every supervisor."""
    groups = [(me, cast.known[me.id - 1][:2]) for me in _supervisors(cast)]
    since = {"created_at": LONG_AGO}
    codes = [{"user_id": me.id, "name": "Old Flat", "invitation_code": f"old{me.id:02d}"} for me, _ in groups]
    yield "splitwise", "Group", [{**code, **since} for code in codes]
    members = [(i, user) for i, (me, others) in enumerate(groups, start=1) for user in (me.id, *others)]
    yield "splitwise", "GroupMember", [{"group_id": i, "user_id": user, "joined_at": LONG_AGO} for i, user in members]
    costs = [
        (i, payer, [me.id, *others], text, amount)
        for i, (me, others) in enumerate(groups, start=1)
        for payer, (text, amount) in zip(others, OLD_COSTS, strict=True)
    ]
    expenses = [
        {"group_id": i, "user_id": payer, "payer_id": payer, "debtor_ids": owing, "description": text, "amount": amount}
        for i, payer, owing, text, amount in costs
    ]
    yield "splitwise", "Expense", [{**expense, **since} for expense in expenses]
    shares = [
        {"expense_id": number, "debtor_id": user, "share_amount": amount / len(owing)}
        for number, (*_, owing, _, amount) in enumerate(costs, start=1)
        for user in owing
    ]
    yield "splitwise", "ExpenseShare", [{**share, **since} for share in shares]
    payments = [
        {"group_id": i, "user_id": user, "payer_id": user, "receiver_id": payer, "amount": amount / len(owing)}
        for i, payer, owing, _, amount in costs
        for user in owing
        if user != payer
    ]
    yield "splitwise", "Payment", [{**payment, **since} for payment in payments]


def _projects(cast: Cast) -> Rows:
    """Everybody's inbox; for every supervisor a project of his own with two tasks that have waited long."""
    since = {"created_at": LONG_AGO}
    inboxes: list[dict[str, Any]] = [{"user_id": p.id, "name": "Inbox", "is_inbox": True, **since} for p in cast.people]
    someday = [{"user_id": me.id, "name": "Someday", **since} for me in _supervisors(cast)]
    projects = [*inboxes, *someday]
    yield "todoist", "Project", projects
    links = [{"project_id": i, "user_id": project["user_id"]} for i, project in enumerate(projects, start=1)]
    yield "todoist", "ProjectCollaboratorLink", [{**link, **since} for link in links]
    tasks = [
        {"project_id": len(inboxes) + me.id, "user_id": me.id, "title": title, "priority": "low", "order_index": i}
        for me in _supervisors(cast)
        for i, title in enumerate(("learn the piano", "see the sea"))
    ]
    yield "todoist", "Task", [{**task, **since} for task in tasks]


def _supervisors(cast: Cast) -> tuple[Person, ...]:
    return cast.people[: cast.supervisors]
