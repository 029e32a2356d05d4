"""Failures of the engine in a row end an actor; failures over days do not."""

import pytest

from actor.engine_starts import LONGEST_WAIT, EngineStarts
from common.errors import RunError

DIED = RuntimeError("it died")
DAY = 86_400.0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def life(starts, clock, *, seconds, finished=True):
    """One engine's, to its failure; gives the wait before the next start."""
    starts.working()
    if finished:
        starts.finished()
    clock.now += seconds
    return starts.failed(DIED)


def test_an_engine_that_dies_once_a_day_is_started_again_for_ever():
    clock = Clock()
    starts = EngineStarts(2, 600.0, clock)
    assert [life(starts, clock, seconds=DAY) for _ in range(30)] == [0.0] * 30
    assert starts.failures == 1


@pytest.mark.parametrize(
    ("seconds", "finished"), [(1.0, True), (DAY, False)], ids=["dies young", "finishes no episode"]
)
def test_an_engine_that_never_settles_ends_the_actor(seconds, finished):
    clock = Clock()
    starts = EngineStarts(3, 600.0, clock)
    for _ in range(2):
        life(starts, clock, seconds=seconds, finished=finished)
    with pytest.raises(RunError, match=r"vLLM's engine failed 3 times in a row, last: it died; the log has why"):
        life(starts, clock, seconds=seconds, finished=finished)


def test_starts_that_fail_are_waited_after_longer_each_time():
    starts = EngineStarts(10, 600.0, Clock())
    assert not starts.again
    assert starts.told == ""
    assert [starts.failed(DIED) for _ in range(6)] == [2.0, 4.0, 8.0, 16.0, LONGEST_WAIT, LONGEST_WAIT]
    assert starts.again
    assert starts.told == " again: 6 failures in a row, last: it died"
