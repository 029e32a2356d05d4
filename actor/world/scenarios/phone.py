"""What can be asked of the phone: texting a friend, the last text of one, turning an alarm off."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from typing import Any

from actor.world import people
from actor.world.people import NOW, Person
from actor.world.scenarios.form import ANSWER, DONE, Choice, Draft, Row, Scenario, Setting, first_page, login, pages
from actor.world.scenarios.tests import question, touched

LOGIN = login("phone", "$username")
USERNAME = Choice(right="phone_number", wrong=(("email", 1),), chance=0.9)  # the others are logged into by email
FIND = "p = apis.phone.search_contacts(access_token=t$find)[0]['phone_number']"


def _to_text(rng: random.Random, setting: Setting) -> Draft:
    friend = rng.choice(setting.friends[1:-1])
    message = people.saying(rng, 1)[0]
    return Draft(
        values={"name": friend.name, "message": message}, private={"receiver_id": friend.id, "message": message}
    )


def texted(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("phone.GlobalTextMessage")
    with test("a text went to that person alone"):
        test.case([row.receiver_id for row in added], "==", [private_data["receiver_id"]])
    with test("the text says so"):
        test.case([row.message for row in added], "==", [private_data["message"]])
    with test("a text was sent, nothing else was changed, and the task was completed without an answer"):
        test.case(touched(models), "==", {"phone.GlobalTextMessage": [1, 0, 0], "phone.UserTextMessage": [2, 0, 0]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


SEND_TEXT = Scenario(
    name="sendText",
    difficulty=2,
    instruction="Send a text message to '$name' that says '$message'.",
    cells=(LOGIN, FIND, f"apis.phone.send_text_message(phone_number=p, message='$message', access_token=t)\n{DONE}"),
    choices={
        "username": USERNAME,
        "find": Choice(right=", query='$name'", wrong=(("", 1),), chance=0.4),
    },
    draft=_to_text,
    evaluate=texted,
)


def _texts(sender: Person, receiver: Person, message: str, day: int, number: int) -> tuple[Row, ...]:
    """One text in both people's boxes. `number` is its row's id."""
    sent = NOW - timedelta(days=day)
    text = {"sender_id": sender.id, "receiver_id": receiver.id, "message": message, "created_at": sent}
    boxes = tuple(
        Row(
            app="phone",
            model="UserTextMessage",
            fields={"global_text_message_id": number, "user_id": owner.id, "created_at": sent},
        )
        for owner in (sender, receiver)
    )
    return (Row(app="phone", model="GlobalTextMessage", fields=text), *boxes)


def _texts_from(rng: random.Random, setting: Setting) -> Draft:
    friend, other = rng.sample(setting.friends[1:-1], 2)
    messages = people.saying(rng, 5)
    senders = [friend, other, friend, friend, other]
    rows: list[Row] = []
    for number, (sender, message) in enumerate(zip(senders, messages, strict=True), start=1):
        rows += _texts(sender, setting.me, message, 10 - number, number)
    return Draft(values={"name": friend.name}, rows=tuple(rows), answer=messages[3], private={"candidates": messages})


LAST_TEXT = Scenario(
    name="lastText",
    difficulty=2,
    instruction="What does the last text message from '$name' say?",
    cells=(
        LOGIN,
        FIND,
        "s = apis.phone.search_text_messages(phone_number=p, access_token=t)\nprint(s[$which]['message'])",
        ANSWER,
    ),
    choices={
        "username": USERNAME,
        "find": Choice(right=", query='$name'", wrong=(("", 1),), chance=0.95),
        "which": Choice(right="0", wrong=(("-1", 1),), chance=0.34),
    },
    draft=_texts_from,
    evaluate=question,
)


def alarms(rng: random.Random, setting: Setting, enabled: bool) -> tuple[tuple[Row, ...], list[str], list[str]]:
    """Seven alarms with different labels and times: rows, labels, times. The engine lists them by time."""
    labels = rng.sample(people.LABEL.split(), 7)
    hours = sorted(rng.sample(range(5, 23), 7))
    times = [f"{hour:02d}:{rng.choice(['00', '15', '30', '45'])}" for hour in hours]
    rows = tuple(
        Row(
            app="phone",
            model="Alarm",
            fields={
                "user_id": setting.me.id,
                "time": time,
                "repeat_days": ["monday"],
                "label": label,
                "enabled": enabled,
                "snooze_minutes": 5,
                "vibration": True,
                "created_at": NOW - timedelta(days=20 - i),
            },
        )
        for i, (label, time) in enumerate(zip(labels, times, strict=True))
    )
    return rows, labels, times


def _to_turn_off(rng: random.Random, setting: Setting) -> Draft:
    rows, labels, _ = alarms(rng, setting, enabled=True)
    asked = rng.choice([5, 6])  # on the second page
    return Draft(values={"label": labels[asked]}, rows=rows, private={"label": labels[asked]})


def turned_off(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    _, changed, _ = models.changed_records("phone.Alarm")
    with test("the alarm is off"):
        test.case([row.label for row in changed if not row.enabled], "==", [private_data["label"]])
    with test("an alarm was turned off, nothing else was changed, and the task was completed without an answer"):
        test.case(touched(models), "==", {"phone.Alarm": [0, 1, 0]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


ALARM_OFF = Scenario(
    name="alarmOff",
    difficulty=2,
    instruction="Turn off my alarm '$label' on my phone.",
    cells=(
        LOGIN,
        "s = $read\nn = next(x['alarm_id'] for x in s if x['label'] == '$label')",
        f"apis.phone.$verb, access_token=t)\n{DONE}",
    ),
    choices={
        "username": USERNAME,
        "read": Choice(right=pages("phone.show_alarms"), wrong=((first_page("phone.show_alarms"), 1),), chance=0.8),
        "verb": Choice(
            right="update_alarm(alarm_id=n, enabled=False", wrong=(("delete_alarm(alarm_id=n", 1),), chance=0.75
        ),
    },
    draft=_to_turn_off,
    evaluate=turned_off,
)
