"""What can be asked of Gmail: the last mail of somebody, a star, a label, a draft, a new mail.

No scenario of training needs this app.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from actor.world import people
from actor.world.catalogue import FIRST_MAIL
from actor.world.people import NOW, Person
from actor.world.scenarios.form import (
    ANSWER,
    DONE,
    Choice,
    Draft,
    Row,
    Scenario,
    Setting,
    first_page,
    login,
    logins,
    pages,
)
from actor.world.scenarios.simple_note import FIND as FIND_NOTE
from actor.world.scenarios.simple_note import notes
from actor.world.scenarios.tests import question, touched

LOGIN = login("gmail")
FIND = "e = apis.gmail.search_users($seek)[0]['email']"
INBOX = "gmail.show_inbox_threads"
DRAFTS = "gmail.show_drafts"


def mails(
    setting: Setting, senders: Sequence[Person], subjects: Sequence[str], bodies: Sequence[str], labels: Sequence[str]
) -> tuple[Row, ...]:
    """Mails to the supervisor, each a thread of its own, numbered from FIRST_MAIL; the engine lists the first first."""
    rows: list[Row] = []
    for i, (sender, subject, body, label) in enumerate(zip(senders, subjects, bodies, labels, strict=True)):
        at = NOW - timedelta(days=i + 1)
        mail = {"sender_id": sender.id, "recipient_ids": [setting.me.id], "subject": subject, "body": body}
        thread = {"email_ids": [FIRST_MAIL + i], "created_at": at, "updated_at": at}
        rows.append(Row(app="gmail", model="Email", fields={**mail, "created_at": at}))
        rows.append(Row(app="gmail", model="GlobalEmailThread", fields=thread))
        boxed = {**thread, "global_email_thread_id": FIRST_MAIL + i, "read": True, "incoming": False, "outgoing": False}
        for owner, own in ((sender, None), (setting.me, label or None)):
            rows.append(Row(app="gmail", model="UserEmailThread", fields={**boxed, "user_id": owner.id, "label": own}))
    return tuple(rows)


def _known(setting: Setting) -> list[Person]:
    """Friends who are not the first that the engine finds when it is asked for nobody."""
    return [friend for friend in setting.friends if friend.id != 1]


def _last(rng: random.Random, setting: Setting) -> Draft:
    friend, other = rng.sample(_known(setting), 2)
    bodies = people.sayings_alike(rng, 6)
    senders = [other, friend, friend, other, other, friend]
    rows = mails(setting, senders, people.alike(rng, 6), bodies, [""] * 6)
    return Draft(values={"name": friend.name}, rows=rows, answer=bodies[1], private={"candidates": bodies})


LAST_MAIL = Scenario(
    name="lastMail",
    difficulty=2,
    instruction="What does the last email from '$name' in my Gmail inbox say?",
    cells=(
        LOGIN,
        f"{FIND}\ns = apis.gmail.show_inbox_threads(from_email=e, access_token=t)\nn = s[$which]['email_ids'][0]",
        "print(apis.gmail.show_email(email_id=n, access_token=t)['body'])",
        ANSWER,
    ),
    choices={
        "seek": Choice(right="query='$name'", wrong=(("", 1),), chance=0.85),
        "which": Choice(right="0", wrong=(("-1", 1),), chance=0.6),
    },
    draft=_last,
    evaluate=question,
)


def _to_star(rng: random.Random, setting: Setting) -> Draft:
    subjects = people.alike(rng, 7)
    asked = rng.choice([5, 6])  # on the second page
    rows = mails(setting, rng.choices(setting.friends, k=7), subjects, people.saying(rng, 7), [""] * 7)
    return Draft(values={"subject": subjects[asked]}, rows=rows, private={"email_ids": [FIRST_MAIL + asked]})


def starred(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    _, changed, _ = models.changed_records("gmail.UserEmailThread")
    with test("that email is starred"):
        test.case([list(row.email_ids) for row in changed if row.starred], "==", [private_data["email_ids"]])
    with test("an email was starred, nothing else was changed, and the task was completed without an answer"):
        test.case([row.label for row in changed], "==", [None])
        test.case(touched(models), "==", {"gmail.UserEmailThread": [0, 1, 0]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


STAR_MAIL = Scenario(
    name="starMail",
    difficulty=2,
    instruction="Star the email '$subject' in my Gmail inbox.",
    cells=(
        LOGIN,
        "s = $read\nn = next(x['email_thread_id'] for x in s if x['subject'] == '$subject')",
        f"apis.gmail.$verb, access_token=t)\n{DONE}",
    ),
    choices={
        "read": Choice(right=pages(INBOX), wrong=((first_page(INBOX), 1),), chance=0.8),
        "verb": Choice(
            right="mark_thread_starred(email_thread_id=n",
            wrong=(("label_thread(email_thread_id=n, label='starred'", 1),),
            chance=0.7,
        ),
    },
    draft=_to_star,
    evaluate=starred,
)


def _labelled(rng: random.Random, setting: Setting) -> Draft:
    label, other = rng.sample(people.LABEL.split(), 2)
    count = rng.randint(6, 8)
    labels = [label] * count + [other] * rng.randint(1, 2) + [""] * rng.randint(1, 2)
    rng.shuffle(labels)
    senders = rng.choices(setting.friends, k=len(labels))
    rows = mails(setting, senders, people.alike(rng, len(labels)), people.saying(rng, len(labels)), labels)
    return Draft(
        values={"label": label},
        rows=rows,
        answer=str(count),
        private={"candidates": [str(n) for n in range(1, 16)]},
    )


LABELLED = "label='$label', "

LABEL_COUNT = Scenario(
    name="labelCount",
    difficulty=2,
    instruction="How many emails in my Gmail inbox have the label '$label'?",
    cells=(LOGIN, "s = $read\nprint(len(s))", ANSWER),
    choices={
        "read": Choice(
            right=pages(INBOX, LABELLED),
            wrong=((first_page(INBOX, LABELLED), 1), (pages(INBOX), 1)),
            chance=0.5,
        )
    },
    draft=_labelled,
    evaluate=question,
)


def _to_send(rng: random.Random, setting: Setting) -> Draft:
    subjects, bodies = people.alike(rng, 7), people.sayings_alike(rng, 7)
    receivers = rng.choices(setting.friends, k=7)
    asked = rng.choice([5, 6])  # on the second page
    rows = tuple(
        Row(
            app="gmail",
            model="Draft",
            fields={
                "user_id": setting.me.id,
                "recipient_ids": [receiver.id],
                "subject": subject,
                "body": body,
                "created_at": NOW - timedelta(days=i + 1),
                "updated_at": NOW - timedelta(days=i + 1),
            },
        )
        for i, (receiver, subject, body) in enumerate(zip(receivers, subjects, bodies, strict=True))
    )
    private = {"recipient_ids": [receivers[asked].id], "subject": subjects[asked], "body": bodies[asked]}
    return Draft(values={"subject": subjects[asked]}, rows=rows, private=private)


def draft_sent(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("gmail.Email")
    _, _, removed = models.changed_records("gmail.Draft")
    with test("that draft was sent to whom it was for"):
        found = [(list(row.recipient_ids), row.subject, row.body) for row in added]
        test.case(found, "==", [(private_data["recipient_ids"], private_data["subject"], private_data["body"])])
    with test("the draft is no longer a draft"):
        test.case([row.subject for row in removed], "==", [private_data["subject"]])
    with test("a draft was sent, nothing else was changed, and the task was completed without an answer"):
        counts = {"Draft": [0, 0, 1], "Email": [1, 0, 0], "GlobalEmailThread": [1, 0, 0], "UserEmailThread": [2, 0, 0]}
        test.case(touched(models), "==", {f"gmail.{name}": count for name, count in counts.items()})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


SEND_DRAFT = Scenario(
    name="sendDraft",
    difficulty=2,
    instruction="Send my Gmail draft '$subject'.",
    cells=(
        LOGIN,
        "s = $read\nn = next(x['draft_id'] for x in s if x['subject'] == '$subject')",
        f"apis.gmail.$verb(draft_id=n, access_token=t)\n{DONE}",
    ),
    choices={
        "read": Choice(right=pages(DRAFTS), wrong=((first_page(DRAFTS), 1),), chance=0.8),
        "verb": Choice(right="send_email_from_draft", wrong=(("show_draft", 1), ("delete_draft", 1)), chance=0.7),
    },
    draft=_to_send,
    evaluate=draft_sent,
)


def _to_mail(rng: random.Random, setting: Setting) -> Draft:
    friend = rng.choice(_known(setting))
    titles, contents = people.alike(rng, 6), people.saying(rng, 6)
    asked = rng.randrange(1, 6)
    subject = rng.choice(people.REASON.split())
    return Draft(
        values={"name": friend.name, "subject": subject, "note": titles[asked]},
        rows=notes(setting, titles, contents),
        private={"recipient_ids": [friend.id], "subject": subject, "body": contents[asked]},
    )


def mailed(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("gmail.Email")
    with test("an email of that subject went to that person alone"):
        found = [(list(row.recipient_ids), row.subject) for row in added]
        test.case(found, "==", [(private_data["recipient_ids"], private_data["subject"])])
    with test("the email says so"):
        test.case([row.body for row in added], "==", [private_data["body"]])
    with test("an email was sent, nothing else was changed, and the task was completed without an answer"):
        counts = {"Email": [1, 0, 0], "GlobalEmailThread": [1, 0, 0], "UserEmailThread": [2, 0, 0]}
        test.case(touched(models), "==", {f"gmail.{name}": count for name, count in counts.items()})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


MAIL_NOTE = Scenario(
    name="mailNote",
    difficulty=3,
    instruction="Email '$name' on Gmail what my note '$note' in SimpleNote says, with the subject '$subject'.",
    cells=(
        logins("simple_note", "gmail"),
        f"{FIND_NOTE}\nx = apis.simple_note.show_note(note_id=n, access_token=t)['content']",
        f"{FIND}\napis.gmail.$verb=[e], subject='$subject', body=x, access_token=u)\n{DONE}",
    ),
    choices={
        "find": Choice(right=", query='$note'", wrong=(("", 1),), chance=0.9),
        "seek": Choice(right="query='$name'", wrong=(("", 1),), chance=0.9),
        "verb": Choice(
            right="send_email(email_addresses", wrong=(("create_draft(recipient_email_addresses", 1),), chance=0.8
        ),
    },
    draft=_to_mail,
    evaluate=mailed,
)
