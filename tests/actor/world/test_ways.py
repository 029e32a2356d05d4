"""The ways to try a task in, as the files of a task tell them."""

import json

import pytest

from actor.world.ways import read_subject as read
from actor.world.ways import ways

ACCOUNTS = ("spotify", "phone", "venmo")
OURS = {
    "cells": [],
    "form": {
        "cells": ["s = apis.spotify.$verb()\nprint(s)", "apis.supervisor.complete_task(answer='$seen')"],
        "options": {"verb": "show_liked_songs"},
        "wrong": {"verb": ["show_song_library", "show_queue"]},
    },
}


@pytest.fixture
def task(tmp_path):
    def make(answer, *, solution=None, compiled=None, private=None):
        truth = tmp_path / "cardYear_7" / "ground_truth"
        truth.mkdir(parents=True)
        files = {"answer": answer, "private_data": private or {}, "public_data": {}, "metadata": {"apps": ["spotify"]}}
        if solution is not None:
            files["solution"] = solution
        for name, content in files.items():
            (truth / f"{name}.json").write_text(json.dumps(content))
        if compiled is not None:
            (truth / "compiled_solution.py").write_text(compiled)
        return truth.parent

    return make


def played(way, *seen):
    """The cells of a way whose observations are these."""
    cells = []
    for turn, observation in enumerate(("", *seen)):
        code = way.player.next_cell(turn, observation)
        if code is None:
            break
        cells.append(code)
    return cells


def test_our_tasks_are_tried_with_every_single_wrong_option_and_with_another_answer(task):
    subject = read(task("7", solution=OURS, private={"candidates": ["7", "9"]}), ACCOUNTS)
    tried = ways(subject, wrong=None, own=0, other=0)
    assert [(way.kind, way.what) for way in tried] == [
        ("solution", "the reference solution"),
        ("no-op", "completes the task at once"),
        ("wrong", "verb: show_song_library"),
        ("wrong", "verb: show_queue"),
        ("wrong", "another answer: 9"),
    ]
    right, no_op, library, _, answer = (played(way, "it's 7\n") for way in tried)
    assert right == [
        "s = apis.spotify.show_liked_songs()\nprint(s)",
        "apis.supervisor.complete_task(answer='it\\'s 7')",
    ]
    assert no_op == ["apis.supervisor.complete_task()"]
    assert library[0] == "s = apis.spotify.show_song_library()\nprint(s)"
    assert answer == [right[0], "apis.supervisor.complete_task(answer='9')"]


def test_damage_is_done_after_the_task_and_before_it_is_said_to_be_done(task):
    tried = ways(read(task(None, solution=OURS), ACCOUNTS), wrong=0, own=2, other=1)
    damage = [way for way in tried if way.kind == "collateral"]
    assert [way.what.split(":")[0] for way in damage[:2]] == ["spotify", "spotify"]
    assert damage[2].what.split(":")[0] in {"phone", "venmo"}
    last = played(damage[0], "7")[-1]
    assert last.startswith("def aside(me, passwords):")
    assert last.endswith("\napis.supervisor.complete_task(answer='7')")


def test_the_same_task_is_tried_in_the_same_ways(task):
    subject = read(task(None, solution=OURS), ACCOUNTS)
    first, again = ([way.what for way in ways(subject, wrong=1, own=2, other=1)] for _ in range(2))
    assert first == again


def test_a_task_that_asks_for_no_answer_is_tried_with_one(task):
    tried = ways(read(task(None, solution=OURS), ACCOUNTS), wrong=None, own=0, other=0)
    assert tried[-1].what == "an answer that nobody asked for: done"


def test_appworlds_own_solution_is_one_cell_with_damage_before_it(task):
    code = "def solution(apis, requester):\n    apis.supervisor.complete_task(answer='$5')"
    subject = read(task(5, compiled=code), ACCOUNTS)
    solution, no_op, wrong, *damage = ways(subject, wrong=None, own=1, other=0)
    assert played(solution) == [f"{code}\nsolution(apis, requester)"]
    assert played(no_op) == ["apis.supervisor.complete_task()"]
    assert played(wrong) == ["apis.supervisor.complete_task(answer='6.0')"]
    assert played(damage[0])[0].endswith(played(solution)[0])


def test_a_task_that_tells_no_solution_is_tried_with_nothing_alone(task):
    assert [way.kind for way in ways(read(task("x"), ACCOUNTS), wrong=None, own=3, other=1)] == ["no-op"]
