"""What can be asked of Todoist: completing a task, counting the open ones, adding one, which is due first."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from actor.world import people
from actor.world.catalogue import FIRST_PROJECT
from actor.world.people import NOW
from actor.world.scenarios.form import ANSWER, DONE, Choice, Draft, Row, Scenario, Setting, first_page, login, pages
from actor.world.scenarios.tests import question, touched

LOGIN = login("todoist")
FIND = "n = apis.todoist.show_projects(access_token=t$find)[0]['project_id']"
TASKS = "s = apis.todoist.show_tasks(project_id=n, access_token=t)['no_section_tasks']"
OPEN = TASKS.replace("access_token=t", "access_token=t$filter")
LISTED = "todoist.show_projects"


def projects(setting: Setting, names: Sequence[str]) -> tuple[Row, ...]:
    """Projects of the supervisor alone, numbered from FIRST_PROJECT; the engine lists the first one first."""
    return tuple(
        Row(
            app="todoist",
            model=model,
            fields={**fields, "user_id": setting.me.id, "created_at": NOW - timedelta(days=i)},
        )
        for i, name in enumerate(names, start=1)
        for model, fields in (
            ("Project", {"name": name}),
            ("ProjectCollaboratorLink", {"project_id": FIRST_PROJECT + i - 1}),
        )
    )


def tasks(
    setting: Setting, project: int, titles: Sequence[str], done: Sequence[bool], days: Sequence[int]
) -> tuple[Row, ...]:
    """Tasks of the project with that id, due after `days`, in the order in which the engine lists them."""
    return tuple(
        Row(
            app="todoist",
            model="Task",
            fields={
                "project_id": project,
                "user_id": setting.me.id,
                "title": title,
                "priority": "medium",
                "is_completed": completed,
                "due_date": NOW + timedelta(days=due),
                "order_index": i,
                "created_at": NOW - timedelta(days=1),
            },
        )
        for i, (title, completed, due) in enumerate(zip(titles, done, days, strict=True))
    )


def planned(
    rng: random.Random, setting: Setting, count: int, asked: int
) -> tuple[tuple[Row, ...], list[str], list[str]]:
    """`count` projects of five tasks each, none of them done: rows, names, titles of the asked one, by due date."""
    names, first, found = people.alike(rng, count), list[str](), list[str]()
    rows: tuple[Row, ...] = ()
    for number in range(count):
        titles, days = people.sayings_alike(rng, 5), rng.sample(range(1, 60), 5)
        if days[0] == min(days):  # the one listed first is never due first
            days.reverse()
        rows += tasks(setting, FIRST_PROJECT + number, titles, [False] * 5, days)
        due = [title for _, title in sorted(zip(days, titles, strict=True))]
        first = first or due
        if number == asked:
            found = due
    if asked and (first[0] == found[0] or first[-1] == found[-1]):  # the first project would give the answer by luck
        return planned(rng, setting, count, asked)
    return projects(setting, names) + rows, names, found


def _to_complete(rng: random.Random, setting: Setting) -> Draft:
    asked = rng.choice([5, 6])  # on the second page
    rows, names, titles = planned(rng, setting, 7, asked)
    values = {"title": rng.choice(titles), "project": names[asked]}
    return Draft(values=values, rows=rows, private={"title": values["title"], "project_id": FIRST_PROJECT + asked})


def completed(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    _, changed, _ = models.changed_records("todoist.Task")
    with test("that task of that project is completed"):
        found = [(row.title, row.project_id) for row in changed if row.is_completed]
        test.case(found, "==", [(private_data["title"], private_data["project_id"])])
    with test("a task was updated, nothing else was changed, and our task was completed without an answer"):
        test.case(touched(models), "==", {"todoist.Task": [0, 1, 0]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


TASK_DONE = Scenario(
    name="taskDone",
    difficulty=2,
    instruction="Mark the task '$title' of my Todoist project '$project' as completed.",
    cells=(
        LOGIN,
        "s = $read\nn = next(x['project_id'] for x in s if x['name'] == '$project')",
        f"{TASKS}\nn = next(x['task_id'] for x in s if x['title'] == '$title')",
        f"apis.todoist.$verb, access_token=t)\n{DONE}",
    ),
    choices={
        "read": Choice(right=pages(LISTED), wrong=((first_page(LISTED), 1),), chance=0.85),
        "verb": Choice(
            right="update_task(task_id=n, is_completed=True", wrong=(("delete_task(task_id=n", 1),), chance=0.75
        ),
    },
    draft=_to_complete,
    evaluate=completed,
)


def _to_count(rng: random.Random, setting: Setting) -> Draft:
    names = people.alike(rng, 4)
    asked = rng.randrange(1, 4)
    titles = people.sayings_alike(rng, 12)
    done = [True] * rng.randint(1, 5) + [False] * rng.randint(2, 7)
    rng.shuffle(done)
    rows = tasks(setting, FIRST_PROJECT + asked, titles[: len(done)], done, rng.sample(range(1, 60), len(done)))
    more = done.count(False) + 1  # so the first project never gives the answer by luck
    others = tasks(setting, FIRST_PROJECT, titles[:more], [False] * more, range(more))
    return Draft(
        values={"project": names[asked]},
        rows=(*projects(setting, names), *others, *rows),
        answer=str(done.count(False)),
        private={"candidates": [str(n) for n in range(1, 13)]},
    )


OPEN_TASKS = Scenario(
    name="openTasks",
    difficulty=2,
    instruction="How many tasks of my Todoist project '$project' are not completed?",
    cells=(LOGIN, FIND, f"{OPEN}\nprint(len(s))", ANSWER),
    choices={
        "find": Choice(right=", query='$project'", wrong=(("", 1),), chance=0.9),
        "filter": Choice(right=", is_completed=False", wrong=(("", 1),), chance=0.33),
    },
    draft=_to_count,
    evaluate=question,
)


def _to_add(rng: random.Random, setting: Setting) -> Draft:
    asked = rng.randrange(1, 4)
    rows, names, titles = planned(rng, setting, 4, asked)
    new = next(title for title in people.saying(rng, 6) if title not in titles)
    priority = rng.choice(["high", "low"])
    private = {"title": new, "priority": priority, "project_id": FIRST_PROJECT + asked}
    return Draft(values={"title": new, "project": names[asked], "priority": priority}, rows=rows, private=private)


def task_added(*, test: Any, private_data: Any, models: Any, **_: Any) -> None:
    added, _, _ = models.changed_records("todoist.Task")
    with test("that task is in that project"):
        test.case(
            [(row.title, row.project_id) for row in added], "==", [(private_data["title"], private_data["project_id"])]
        )
    with test("the task has the priority that was asked for"):
        test.case([row.priority for row in added], "==", [private_data["priority"]])
    with test("a task was added, nothing else was changed, and our task was completed without an answer"):
        test.case(touched(models), "==", {"todoist.Task": [1, 0, 0]})
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)


ADD_TASK = Scenario(
    name="addTask",
    difficulty=2,
    instruction="Add the task '$title' with '$priority' priority to my Todoist project '$project'.",
    cells=(LOGIN, FIND, f"apis.todoist.create_task(project_id=n, title='$title'$more, access_token=t)\n{DONE}"),
    choices={
        "find": Choice(right=", query='$project'", wrong=(("", 1),), chance=0.92),
        "more": Choice(right=", priority='$priority'", wrong=(("", 1),), chance=0.36),
    },
    draft=_to_add,
    evaluate=task_added,
)


def _due(rng: random.Random, setting: Setting) -> Draft:
    asked = rng.randrange(1, 4)
    rows, names, titles = planned(rng, setting, 4, asked)
    return Draft(values={"project": names[asked]}, rows=rows, answer=titles[0], private={"candidates": titles})


DUE_FIRST = Scenario(
    name="dueFirst",
    difficulty=2,
    instruction="Which task of my Todoist project '$project' is due first?",
    cells=(
        LOGIN,
        FIND,
        f"{TASKS}\nprint($pick(s, key=lambda x: x['due_date'])['title'])",
        ANSWER,
    ),
    choices={
        "find": Choice(right=", query='$project'", wrong=(("", 1),), chance=0.85),
        "pick": Choice(right="min", wrong=(("max", 1),), chance=0.75),
    },
    draft=_due,
    evaluate=question,
)
