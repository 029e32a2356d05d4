"""What the actor reads of a data root by itself."""

import json

import pytest

from actor.world.root import TaskText, check_root, read_task
from common.errors import UsageError

SPECS = {
    "instruction": "Do it.",
    "supervisor": {"first_name": "A", "last_name": "B", "email": "a@b.org", "phone_number": "1"},
    "datetime": "2023-05-18T12:00:00",
    "db_version": "0.1.0",
}


def make_root(folder, tasks):
    for part in ("full", "episode"):
        for inner in ("api_docs", "base_dbs", "datasets", "tasks"):
            (folder / part / "data" / inner).mkdir(parents=True)
    for task_id, specs in tasks.items():
        task = folder / "episode" / "data" / "tasks" / task_id
        task.mkdir()
        (task / "specs.json").write_text(specs if isinstance(specs, str) else json.dumps(specs))
    return folder


def test_a_task_is_read_as_it_is_specified(tmp_path):
    root = make_root(tmp_path, {"x_1": SPECS})
    assert check_root(root) == "x_1"
    assert read_task(root, "x_1") == TaskText(
        task_id="x_1",
        instruction="Do it.",
        first_name="A",
        last_name="B",
        email="a@b.org",
        phone_number="1",
        datetime="2023-05-18T12:00:00",
    )


@pytest.mark.parametrize("specs", ["{", "[]", {**SPECS, "supervisor": {}}, {"instruction": "Do it."}])
def test_a_broken_specification_is_named(tmp_path, specs):
    root = make_root(tmp_path, {"x_1": specs})
    with pytest.raises(UsageError, match=r"specs.json is not a task's specification"):
        read_task(root, "x_1")


def test_a_root_without_tasks_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no task"):
        check_root(make_root(tmp_path, {}))


def test_a_missing_part_is_named(tmp_path):
    root = make_root(tmp_path, {"x_1": SPECS})
    (root / "episode" / "data" / "base_dbs").rmdir()
    with pytest.raises(UsageError, match="episode/data/base_dbs is missing"):
        check_root(root)


def test_a_path_that_the_engine_cannot_bear_is_refused(tmp_path):
    root = tmp_path / "in_memory_of"
    root.mkdir()
    with pytest.raises(UsageError, match="move the data root"):
        check_root(make_root(root, {"x_1": SPECS}))
