"""Whatever is wrong with a root or a task is named before anything is played: what, where, what to do."""

import json
import re
from pathlib import Path

import pytest
from official_data import make_official, rewrite

from actor.world import check
from actor.world.check import check_tasks, list_problems, root_problems, task_problems
from actor.world.install import appworld_python
from actor.world.root import choose_root
from actor.world.service import AppWorlds
from common.errors import UsageError

TASKS = ("likeSong_1", "likeSong_2", "payFriend_1", "longestSong_1", "alarmTime_1")


@pytest.fixture
def data(tmp_path, world_root, monkeypatch):
    """AppWorld's own form, which may be broken; `root_of` gives the root that comes of it."""
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "cache"))
    return make_official(tmp_path / "appworld", world_root, TASKS) / "data"


def root_of(data):
    return choose_root(data.parent)


def problems_of(data, task_id="likeSong_1"):
    return list(task_problems(root_of(data), [task_id]))


def replace(file, text):
    """A new file: the old one is linked to others."""
    file.unlink()
    file.write_text(text)


def test_a_built_world_is_whole_in_both_forms(world_root, data):
    for root in (world_root, root_of(data)):
        task_ids = [path.name for path in (root / "full" / "data" / "tasks").iterdir()]
        assert [*root_problems(root), *task_problems(root, task_ids)] == []
        check_tasks(root, task_ids)
    assert list(list_problems(world_root)) == []


def test_the_version_is_the_engines(appworld_python):
    constants = next(Path(appworld_python).parents[1].glob("lib/*/site-packages/appworld/common/constants.py"))
    assert re.search(r'^DB_VERSION = "(.*)"$', constants.read_text(), re.MULTILINE)[1] == check.DATA_VERSION


def test_the_apps_are_the_engines(world_root):
    assert {path.stem for path in (world_root / "full" / "data" / "base_dbs").iterdir()} == set(check.APPS)
    docs = world_root / "full" / "data" / "api_docs" / "standard"
    assert {path.stem for path in docs.iterdir()} == set(check.APPS_WITH_DOCS)


@pytest.mark.parametrize("name", ["base_dbs/venmo.db", "api_docs/standard/venmo.json"])
def test_a_file_that_all_tasks_need_is_missed_by_name(data, name):
    (data / name).unlink()
    with pytest.raises(UsageError, match=rf"cannot be used: .*/{name} is missing; 'loop world check --root"):
        check_tasks(root_of(data), ["likeSong_1"])


def test_a_base_that_is_no_database_and_docs_of_another_form_are_named(data):
    replace(data / "base_dbs" / "venmo.db", "moved")
    replace(data / "api_docs" / "standard" / "gmail.json", json.dumps({"login": {"canary_string": ""}}))
    found = list(root_problems(root_of(data)))
    assert [problem.rpartition("/")[2] for problem in found] == [
        "venmo.db is not a database",
        "gmail.json: login has no response_schemas",
    ] * 2


def test_a_root_of_another_version_is_named(data):
    replace(data / "version.txt", "0.2.0\n")
    with pytest.raises(UsageError, match=r"version.txt says version 0.2.0, the engine takes 0.1.0"):
        check_tasks(root_of(data), [])


def test_a_task_of_another_version_is_named(data):
    rewrite(data / "tasks" / "likeSong_1" / "specs.json", db_version="0.0.9")
    assert problems_of(data) == ["likeSong_1: its data are of version 0.0.9, the engine takes 0.1.0"]


@pytest.mark.parametrize(
    "name",
    [
        "specs.json",
        "dbs/phone.jsonl",
        *(f"ground_truth/{name}.json" for name in check.TRUTH),
        "ground_truth/evaluation.py",
    ],
)
def test_a_file_that_a_task_needs_is_missed_by_name(data, name):
    (data / "tasks" / "likeSong_1" / name).unlink()
    (problem,) = problems_of(data)
    assert problem.startswith("likeSong_1: ")
    assert f"tasks/likeSong_1/{name}" in problem
    assert "missing" in problem or "No such file" in problem


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("answer.json", "forty-two", "answer.json is not JSON: Expecting value"),
        ("test_data.json", "{}", "test_data.json is not a JSON list"),
        ("test_data.json", "[]", "lists no requirement: whatever an episode does would succeed"),
        ("test_data.json", '["x"]', "is not a list of requirements"),
        ("metadata.json", '{"mode": "full"}', "metadata.json has no difficulty"),
        ("private_data.json", "[1]", "private_data.json is not a JSON object"),
        ("evaluation.py", "def evaluate(:\n", "evaluation.py does not compile: invalid syntax"),
        ("evaluation.py", "def judge():\n    pass\n", "evaluation.py has no function `evaluate`"),
        (
            "evaluation.py",
            "def evaluate(test, **_):\n    with test('something else'):\n        pass\n",
            "evaluation.py tests 'something else', which test_data.json does not list",
        ),
        (
            "evaluation.py",
            "def evaluate(test, **_):\n    pass\n",
            "which evaluation.py does not test",
        ),
    ],
)
def test_broken_ground_truth_is_named(data, name, text, told):
    replace(data / "tasks" / "likeSong_1" / "ground_truth" / name, text)
    (problem,) = problems_of(data)
    assert told in problem


def test_requirements_are_compared_as_the_engine_reads_them(data):
    """AppWorld's own stand in indented text of several lines; one that is put together cannot be known."""
    truth = data / "tasks" / "likeSong_1" / "ground_truth"
    replace(truth / "test_data.json", json.dumps([{"requirement": "two\nlines", "label": "no_op_fail"}]))
    plain = 'def evaluate(test, **_):\n    with test(\n        """\n        two\n        lines\n        """\n    ):\n'
    replace(truth / "evaluation.py", plain + "        pass\n")
    assert problems_of(data) == []
    replace(truth / "evaluation.py", "def evaluate(test, x, **_):\n    with test(f'made of {x}'):\n        pass\n")
    assert problems_of(data) == []


def test_the_first_tasks_that_are_missing_are_named_with_their_count(world_root):
    ghosts = [f"ghost_{n}" for n in range(1, 8)]
    with pytest.raises(UsageError) as caught:
        check_tasks(world_root, ["likeSong_1", *ghosts])
    message = str(caught.value)
    assert message.startswith(
        f"7 of 8 tasks cannot be used on the data root {world_root}: ghost_1: the root has no such"
    )
    assert "ghost_5: " in message
    assert "ghost_6" not in message
    assert "and 2 more" in message
    assert "\n" not in message


@pytest.mark.parametrize("task_id", ["../likeSong_1", "likeSong", "", "like Song_1", "x" * 5000])
def test_an_id_that_is_none_is_no_task(world_root, task_id):
    (problem,) = task_problems(world_root, [task_id])
    assert problem.endswith("the root has no such task")
    assert len(problem) < 300


def test_lists_that_name_what_is_not_there_are_named(data):
    replace(data / "datasets" / "train.txt", "likeSong_1\nghost_1\nlikeSong_1\n")
    replace(data / "datasets" / "test_normal.txt", "longestSong_1:tag\n")
    replace(data / "datasets" / "dev.txt", "\n")
    (data / "datasets" / "test_challenge.txt").unlink()
    found = [problem.rpartition("datasets/")[2] for problem in list_problems(root_of(data))]
    assert found == [
        "dev.txt lists no task",
        "train.txt lists ghost_1, which the root does not have",
        "train.txt lists likeSong_1 more than once",
    ]


def test_an_actors_worlds_are_checked_before_they_are_started(world_root, monkeypatch, world_config):
    config = world_config.model_copy(update={"root": world_root})
    worlds = AppWorlds(config)
    assert worlds.root == world_root
    worlds.check(["likeSong_1"])
    with pytest.raises(UsageError, match="1 of 2 tasks cannot be used"):
        worlds.check(["likeSong_1", "ghost_1"])
    assert appworld_python() == worlds._python
