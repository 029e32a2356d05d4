"""What the comparison of whole runs computes from their figures."""

from __future__ import annotations

import pytest
from bench_asynchronous import compared, seconds_to, summary


def arm(*, seconds: float, dev: list[list[float]], after: float = 0.7) -> dict:
    return {
        "rl_seconds": seconds,
        "samples_per_second": 100 / seconds,
        "success_before": 0.3,
        "success_after": after,
        "lag": 0.5,
        "dev": dev,
        "rewards": [[seconds, 0.5]],
    }


@pytest.mark.parametrize(
    ("level", "second"),
    [(0.2, 0.0), (0.3, 0.0), (0.4, 50.0), (0.5, 100.0), (0.6, 250.0), (0.7, 300.0), (0.8, None)],
)
def test_a_level_is_reached_on_straight_lines_the_first_time(level, second):
    curve = [[0.0, 0.3], [100.0, 0.5], [200.0, 0.5], [300.0, 0.7], [400.0, 0.6]]
    found = seconds_to(level, curve)
    assert found == (second if second is None else pytest.approx(second))


def test_arms_are_held_against_each_other_at_the_success_that_both_reach():
    pair = {
        "asynchronous": arm(seconds=100.0, dev=[[0.0, 0.2], [50.0, 0.6], [100.0, 0.8]]),
        "synchronous": arm(seconds=200.0, dev=[[0.0, 0.2], [200.0, 0.6]]),
    }
    found = compared(pair)
    assert found["rl_seconds"] == found["samples_per_second"] == 2.0
    expected = {"level": 0.6, "asynchronous": 50.0, "synchronous": 200.0, "ratio": 4.0}
    assert found["to_level"] == pytest.approx(expected)
    told = summary([{**pair, "compared": found}, {**pair, "compared": {**found, "rl_seconds": 4.0}}])
    assert told["ratio.rl_seconds"] == {"mean": 3.0, "range": [2.0, 4.0]}
    assert told["ratio.to_level"] == {"mean": 4.0, "range": [4.0, 4.0]}
    assert told["synchronous.success_after"] == {"mean": 0.7, "range": [0.7, 0.7]}


def test_without_plays_of_dev_nothing_is_said_of_them():
    pair = {name: arm(seconds=100.0, dev=[]) for name in ("asynchronous", "synchronous")}
    found = compared(pair)
    assert "to_level" not in found
    assert "ratio.to_level" not in summary([{**pair, "compared": found}])
