from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UsageError
from learner.gateway.draw import EvaluationConfig, TaskDraw, evaluation_tasks, read_tasks


def test_every_task_is_drawn_once_before_any_comes_again():
    draw = TaskDraw([f"t_{n}" for n in range(10)], seed=3)
    tasks = [draw.task(number) for number in range(20)]
    assert sorted(tasks[:10]) == sorted(tasks[10:]) == sorted(f"t_{n}" for n in range(10))
    assert tasks[:10] != tasks[10:]


def test_a_draw_follows_from_seed_and_number_alone():
    tasks = [f"t_{n}" for n in range(10)]
    assert TaskDraw(tasks, 3).task(17) == [TaskDraw(tasks, 3).task(n) for n in range(20)][17]
    assert [TaskDraw(tasks, 3).task(n) for n in range(10)] != [TaskDraw(tasks, 4).task(n) for n in range(10)]


def test_an_evaluation_is_every_task_at_every_temperature():
    config = EvaluationConfig(temperatures=(0.0, 1.0), rollouts=4)
    tasks = evaluation_tasks(config, ["a_1", "b_1"], "after")
    assert [(task.group_id, task.temperature, task.rollouts) for task in tasks] == [
        ("after.t0.a_1", 0.0, 1),
        ("after.t0.b_1", 0.0, 1),
        ("after.t1.a_1", 1.0, 4),
        ("after.t1.b_1", 1.0, 4),
    ]


@pytest.mark.parametrize(("text", "wrong"), [("", "lists no task"), ("a_1\n\nb_1\na_1\n", "lists a_1 more than once")])
def test_a_task_list_that_is_none_is_named(tmp_path: Path, text: str, wrong: str):
    file = tmp_path / "train.txt"
    file.write_text(text)
    with pytest.raises(UsageError, match=wrong):
        read_tasks(file, "learner.rollout.train_tasks")


def test_a_missing_task_list_is_named_with_its_option(tmp_path: Path):
    with pytest.raises(UsageError, match=r"learner\.rollout\.train_tasks: .*none\.txt: cannot be read"):
        read_tasks(tmp_path / "none.txt", "learner.rollout.train_tasks")
