"""A loop that beats is well; one that does not is said to be stuck, in the function of ours that it is in."""

import threading

from common.measures import Figures
from common.pulse import STUCK_SECONDS, Pulse, place_of
from common.run_lock import only_one


def test_it_is_well_until_the_beat_is_too_old():
    now = [0.0]
    pulse = Pulse("actor", clock=lambda: now[0])
    pulse.beat(waiting_for="leases")
    now[0] = STUCK_SECONDS - 0.1
    assert pulse.health().well
    assert pulse.health().said["waiting_for"] == "leases"
    now[0] = STUCK_SECONDS + 0.1
    assert not pulse.health().well
    pulse.beat()
    assert pulse.health().well
    assert pulse.health().said["waiting_for"] == ""


def test_a_beat_without_figures_leaves_those_that_there_are():
    pulse = Pulse("actor", Figures({"loop_x": 1.0}))
    pulse.beat()
    assert pulse.figures == Figures({"loop_x": 1.0})
    pulse.beat(Figures({"loop_x": 2.0}))
    assert pulse.figures == Figures({"loop_x": 2.0})


def test_the_place_is_the_function_of_ours_that_waits_for_something_else(tmp_path, monkeypatch):
    """Here a lock that somebody else holds: what is slept in is Python's, who sleeps is ours."""
    asleep, awake = threading.Event(), threading.Event()

    def sleep(_seconds):
        asleep.set()
        awake.wait()

    def wait_for_lock():
        with only_one(tmp_path / "actor.lock"):
            pass

    with only_one(tmp_path / "actor.lock"):
        monkeypatch.setattr("common.run_lock.time.sleep", sleep)
        thread = threading.Thread(target=wait_for_lock)
        thread.start()
        asleep.wait()
        found = place_of(thread.ident)
    awake.set()
    thread.join()
    assert found.startswith("common.run_lock.only_one, line ")
    assert place_of(thread.ident) == "a thread that has ended"
