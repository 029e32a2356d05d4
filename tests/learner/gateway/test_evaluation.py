"""What is evaluated: lists, temperatures, labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import parse_command_line
from common.errors import UsageError
from learner.config import LearnerConfig
from learner.gateway.evaluation import EvaluationConfig, EvaluationLists, evaluation_tasks


def write(folder: Path, name: str, *tasks: str) -> Path:
    file = folder / name
    file.write_text("".join(f"{task}\n" for task in tasks))
    return file


def test_an_evaluation_is_every_task_at_every_temperature():
    config = EvaluationConfig(temperatures=(0.0, 1.0), rollouts=4)
    tasks = evaluation_tasks(config, EvaluationLists(("a_1", "b_1")), "after")
    assert [(task.group_id, task.temperature, task.rollouts) for task in tasks] == [
        ("after.t0.a_1", 0.0, 1),
        ("after.t0.b_1", 0.0, 1),
        ("after.t1.a_1", 1.0, 4),
        ("after.t1.b_1", 1.0, 4),
    ]


def test_a_list_beside_is_evaluated_at_the_first_temperature_alone(tmp_path: Path):
    main, challenge = write(tmp_path, "test_normal.txt", "a_1"), write(tmp_path, "test_challenge.txt", "c_1", "c_2")
    config = EvaluationConfig(tasks=main, beside=(challenge,), temperatures=(0.0, 1.0))
    tasks = evaluation_tasks(config, EvaluationLists.read(config), "before")
    assert [(task.label, task.task_id, task.temperature) for task in tasks] == [
        ("before.t0", "a_1", 0.0),
        ("before.t1", "a_1", 1.0),
        ("before.t0.test_challenge", "c_1", 0.0),
        ("before.t0.test_challenge", "c_2", 0.0),
    ]


def test_nothing_is_evaluated_without_a_list():
    assert evaluation_tasks(EvaluationConfig(), EvaluationLists.read(EvaluationConfig()), "before") == []


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (("un fit.txt",), "its results go by its file's name"),
        (("other.txt", "deep/other.txt"), "another list of that name is there"),
        (("none/there.txt",), "cannot be read"),
    ],
)
def test_a_list_beside_that_cannot_be_is_named(tmp_path: Path, names: tuple[str, ...], wrong: str):
    (tmp_path / "deep").mkdir()
    main = write(tmp_path, "main.txt", "a_1")
    for name in names:
        if "none" not in name:
            write(tmp_path, name, "b_1")
    config = EvaluationConfig(tasks=main, beside=tuple(tmp_path / name for name in names))
    with pytest.raises(UsageError, match=rf"learner\.evaluation\.beside: .*{wrong}"):
        EvaluationLists.read(config)


def test_a_list_beside_nothing_is_refused():
    with pytest.raises(UsageError, match=r"evaluation\.beside is set, but evaluation\.tasks is not"):
        parse_command_line({"learner": LearnerConfig}, ["--learner.evaluation.beside", "[c.txt]"], usage="", flags={})


def test_an_interval_without_a_dev_list_is_refused():
    with pytest.raises(UsageError, match=r"evaluation\.dev_every is set, but evaluation\.dev_tasks is not"):
        parse_command_line({"learner": LearnerConfig}, ["--learner.evaluation.dev_every", "5"], usage="", flags={})
