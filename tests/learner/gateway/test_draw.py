from __future__ import annotations

from pathlib import Path

import pytest

from common.config import parse_command_line
from common.errors import UsageError
from common.messages import Identifier
from learner.config import LearnerConfig
from learner.gateway.draw import (
    TASK_ID,
    RolloutConfig,
    TaskDraw,
    read_tasks,
)
from learner.gateway.history import Draw, History


def make_draw(tasks, seed, **config):
    return TaskDraw(tasks, seed, RolloutConfig(groups_per_step=2, **config))


def test_every_task_is_drawn_once_before_any_comes_again():
    draw = make_draw([f"t_{n}" for n in range(10)], seed=3)
    tasks = [draw.task(number) for number in range(20)]
    assert sorted(tasks[:10]) == sorted(tasks[10:]) == sorted(f"t_{n}" for n in range(10))
    assert tasks[:10] != tasks[10:]


def test_a_draw_follows_from_seed_and_number_alone():
    tasks = [f"t_{n}" for n in range(10)]
    assert make_draw(tasks, 3).task(17) == [make_draw(tasks, 3).task(n) for n in range(20)][17]
    assert [make_draw(tasks, 3).task(n) for n in range(10)] != [make_draw(tasks, 4).task(n) for n in range(10)]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "lists no task"),
        ("a_1\n\nb_1\na_1\n", "lists a_1 more than once"),
        ("a_1\nb 1\n", "'b 1' is not a task id"),
        ("a" * 201, "is not a task id"),
    ],
)
def test_a_task_list_that_is_none_is_named(tmp_path: Path, text: str, wrong: str):
    file = tmp_path / "train.txt"
    file.write_text(text)
    with pytest.raises(UsageError, match=wrong):
        read_tasks(file, "learner.rollout.train_tasks")


def test_what_may_be_listed_is_what_a_lease_may_name():
    (pattern,) = [found.pattern for found in Identifier.__metadata__[0].metadata if hasattr(found, "pattern")]
    assert TASK_ID.pattern == pattern.strip("^$").replace("+", "{1,200}")


def test_a_missing_task_list_is_named_with_its_option(tmp_path: Path):
    with pytest.raises(UsageError, match=r"learner\.rollout\.train_tasks: .*none\.txt: cannot be read"):
        read_tasks(tmp_path / "none.txt", "learner.rollout.train_tasks")


FIVE = ["a_1", "b_1", "c_1", "d_1", "e_1"]


def history_of(draw, *signals):
    """Draws from the first on, in order, each complete with signal ("s"), without ("n"), or open ("o")."""
    history = History()
    for signal in signals:
        number = draw.next_number(history)
        known = {"s": True, "n": False, "o": None}[signal]
        history.note(Draw(number, draw.task(number), known, step=0, refilled=False))
    return history


def drawn(draw, history, count):
    """Tasks of the next draws, none of them complete, and the places that they stand at."""
    numbers = []
    for _ in range(count):
        numbers.append(draw.next_number(history))
        history.note(Draw(numbers[-1], draw.task(numbers[-1]), None, step=0, refilled=False))
    return [draw.task(number) for number in numbers], numbers


def test_a_task_whose_last_groups_were_without_signal_is_left_out_for_an_epoch_and_then_drawn_again():
    draw = make_draw(FIVE, 3, retire_after=2)
    history = history_of(draw, *"nssss", *"sssss")
    tasks, numbers = drawn(draw, history, 5)
    assert numbers == [10, 11, 12, 13, 14], "one group without signal is not two"
    without = draw.task(0)
    history = history_of(draw, *"nssss", *("n" if draw.task(number) == without else "s" for number in range(5, 10)))
    tasks, numbers = drawn(draw, history, 9)
    assert without not in tasks[:4]
    assert sorted(tasks[4:]) == FIVE
    assert sorted(numbers) == sorted({*range(10, 20)} - {next(n for n in range(10, 15) if draw.task(n) == without)})


def test_a_retired_task_that_is_still_without_signal_is_left_out_again_and_one_with_signal_stays():
    for signal, times in (("n", 1), ("s", 2)):
        draw = make_draw(FIVE, 3, retire_after=1, retire_epochs=2)
        without = draw.task(0)
        history = history_of(draw, *"nssss", *"ssss", *"ssss")  # out for two epochs of four draws
        assert history.next_number == 15
        while history.next_number < 20:
            number = draw.next_number(history)
            came = draw.task(number) != without or signal == "s"
            history.note(Draw(number, draw.task(number), came, step=0, refilled=False))
        tasks, _ = drawn(draw, history, 12)
        assert tasks.count(without) == times + (signal == "s"), signal


def test_a_late_signal_brings_a_retired_task_back_at_once():
    draw = make_draw(FIVE, 3, retire_after=1)
    history = history_of(draw, *"nssss", *"o")
    assert draw.left_out_now(history) == {draw.task(0)}
    history.note(Draw(0, draw.task(0), True, step=0, refilled=False))
    assert draw.left_out_now(history) == set()


def test_all_tasks_come_back_where_fewer_than_a_step_draws_would_remain():
    draw = make_draw(FIVE, 3, retire_after=1)
    history = history_of(draw, *"nnnss")
    assert draw.left_out(history, 1) == {draw.task(number) for number in range(3)}
    history.note(Draw(3, draw.task(3), False, step=0, refilled=False))
    assert draw.left_out(history, 1) == set()
    assert sorted(drawn(draw, history, 5)[0]) == FIVE


def test_a_list_that_a_step_draws_whole_cannot_retire_tasks():
    with pytest.raises(UsageError, match=r"retire_after: the list has 2 tasks and a step draws 2, so none can be left"):
        make_draw(["a_1", "b_1"], 3, retire_after=1)


def test_the_horizon_grows_linearly_to_the_turn_limit_and_stays_there():
    config = RolloutConfig(max_turns=10, horizon_start=4, horizon_steps=4)
    assert [config.turns_at(step) for step in range(7)] == [4, 5, 7, 8, 10, 10, 10]
    assert RolloutConfig(max_turns=10).turns_at(0) == 10


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (
            {"horizon_start": "9", "horizon_steps": "4"},
            "rollout.horizon_start 9 is above rollout.max_turns 7: lower it",
        ),
        ({"horizon_start": "3"}, "rollout.horizon_start is set, but rollout.horizon_steps is not: set both or none"),
        ({"horizon_steps": "3"}, "rollout.horizon_steps is set, but rollout.horizon_start is not: set both or none"),
        ({"retire_after": "0"}, "learner.rollout.retire_after"),
        ({"refill_most": "-1"}, "learner.rollout.refill_most"),
    ],
)
def test_options_of_the_draw_that_contradict_are_one_line(options: dict[str, str], wrong: str):
    arguments = [part for name, value in options.items() for part in (f"--learner.rollout.{name}", value)]
    with pytest.raises(UsageError) as raised:
        parse_command_line({"learner": LearnerConfig}, arguments, usage="usage", flags={})
    assert wrong in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_objective_that_learns_from_equal_rewards_replaces_and_retires_nothing():
    objective = ["--learner.objective.advantage", "success"]
    for options in (["--learner.rollout.refill_most", "3"], ["--learner.rollout.retire_after", "3"]):
        with pytest.raises(UsageError, match=r"but objective\.advantage: success learns from them"):
            parse_command_line({"learner": LearnerConfig}, [*options, *objective], usage="usage", flags={})
