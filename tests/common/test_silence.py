"""When an actor says that its learner is silent, and that it is heard again."""

from structlog.testing import capture_logs

from common.silence import Silence

INTERVAL = 2.0


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def look(silence, clock, seconds, *, step=INTERVAL / 2):
    """So many seconds pass, with a look at every half interval; what is logged meanwhile."""
    with capture_logs() as logs:
        until = clock.now + seconds
        while clock.now < until:
            before, clock.now = clock.now, clock.now + step
            silence.look(before, INTERVAL, 3)
    return [(entry["event"], entry["seconds"]) for entry in logs]


def test_a_learner_that_says_nothing_for_three_intervals_is_silent_and_that_is_said_once():
    clock = Clock()
    silence = Silence("there", clock)
    assert look(silence, clock, 6.0) == []
    assert look(silence, clock, 20.0) == [("learner_silent", 7.0)]


def test_a_learner_that_answers_every_interval_is_not_silent():
    clock = Clock()
    silence = Silence("there", clock)
    for _ in range(10):
        assert look(silence, clock, INTERVAL) == []
        silence.heard()


def test_its_return_is_said_with_how_long_it_was_silent_and_the_next_silence_again():
    clock = Clock()
    silence = Silence("there", clock)
    look(silence, clock, 30.0)
    with capture_logs() as logs:
        silence.heard()
        silence.heard()
    assert [(entry["event"], entry["seconds"]) for entry in logs] == [("learner_heard_again", 30.0)]
    assert look(silence, clock, 8.0) == [("learner_silent", 7.0)]


def test_an_actor_that_stood_still_itself_does_not_blame_the_learner():
    clock = Clock()
    silence = Silence("there", clock)
    assert look(silence, clock, 50.0, step=50.0) == [("actor_was_stopped", 50.0)]
    assert look(silence, clock, 6.0) == []
