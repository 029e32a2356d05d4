"""The notify protocol over real sockets: what is said, what is not, and that nobody is held up by it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from listening import Listener

from common.notices import Notices
from common.notify import Notifier

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def listener(tmp_path, monkeypatch):
    made = Listener(tmp_path / "notify")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()


@pytest.fixture
def now():
    """A clock that a test sets."""
    return [0.0]


@pytest.fixture
def notifier(listener, now):
    made = Notifier(clock=lambda: now[0])
    yield made
    made.close()


def watched(monkeypatch, seconds, process=None):
    monkeypatch.setenv("WATCHDOG_USEC", str(int(seconds * 1e6)))
    monkeypatch.setenv("WATCHDOG_PID", str(process or os.getpid()))


def test_all_is_said_in_the_words_of_the_protocol(listener, notifier):
    notifier.extend(1.5)
    notifier.status("waits for the learner")
    notifier.ready()
    notifier.stopping()
    assert listener.lines() == [
        "EXTEND_TIMEOUT_USEC=1500000",
        "STATUS=waits for the learner",
        "READY=1",
        "STOPPING=1",
    ]


def test_nothing_is_said_where_nobody_listens(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    watched(monkeypatch, 1.0)
    notifier = Notifier()
    for say in (notifier.ready, notifier.alive, notifier.stopping, notifier.close):
        say()
    notifier.status("unheard")
    notifier.extend(1.0)
    assert not notifier.is_heard
    assert notifier.watchdog_seconds is None


def test_an_address_where_nobody_is_costs_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with pytest.warns(ResourceWarning):  # of the package, which leaves the socket to the collector
        notifier = Notifier()
    notifier.ready()
    assert not notifier.is_heard


def test_a_child_does_not_speak_in_its_parents_name(listener, monkeypatch):
    watched(monkeypatch, 1.0)
    Notifier().close()
    assert {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ) == set()


def test_a_status_is_one_line_in_utf_8_and_said_when_it_changes(listener, notifier):
    notifier.status("step 3\nwaits for größere Gruppen → 2")
    notifier.status("step 3 waits for größere Gruppen → 2")
    notifier.status("step 4")
    assert listener.lines() == ["STATUS=step 3 waits for größere Gruppen → 2", "STATUS=step 4"]


def test_signs_of_life_are_four_in_the_time_that_systemd_waits_however_often_they_are_given(listener, monkeypatch, now):
    watched(monkeypatch, 20.0)
    notifier = Notifier(clock=lambda: now[0])
    for second in range(20):
        now[0] = float(second)
        notifier.alive()
    notifier.close()
    assert notifier.watchdog_seconds == 20.0
    assert listener.lines() == ["WATCHDOG=1"] * 4


def test_without_a_watchdog_or_with_anothers_no_sign_is_given(listener, monkeypatch):
    watched(monkeypatch, 20.0, process=1)
    notifier = Notifier()
    notifier.alive()
    notifier.close()
    assert notifier.watchdog_seconds is None
    assert listener.lines() == []


def test_that_it_is_ready_is_said_again_with_a_sign_of_life_and_no_sign_is_given_after_stopping(
    listener, monkeypatch, now
):
    watched(monkeypatch, 4.0)
    notifier = Notifier(clock=lambda: now[0])
    notifier.ready()
    notifier.ready()
    notifier.alive()
    notifier.stopping()
    now[0] = 100.0
    notifier.alive()
    notifier.close()
    assert listener.take() == [["READY=1"], ["WATCHDOG=1", "READY=1"], ["STOPPING=1"]]


def test_a_listener_that_does_not_read_holds_nobody_up(listener, notifier):
    for number in range(5000):  # more than any queue of datagrams holds
        notifier.status(f"step {number}")
    heard = listener.lines()
    assert 0 < len(heard) < 5000
    assert heard[0] == "STATUS=step 0"


SPEAKER = """
import sys
from common.notify import Notifier
notifier = Notifier()
notifier.extend(30.0)
notifier.status("loads")
notifier.ready()
sys.stdout.write(str(notifier.watchdog_seconds))
"""


def spoken(environment):
    """The process, and what it knows of the watchdog, of a child that spoke and ended."""
    speaker = subprocess.Popen(
        [sys.executable, "-c", SPEAKER],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    return speaker.pid, speaker.communicate()[0]


def test_a_parent_hears_its_children_by_their_process_and_strangers_not_at_all(now):
    now[0] = 5.0
    notices = Notices(clock=lambda: now[0])
    try:
        process, watchdog = spoken(notices.environment(2.5))
        spoken(notices.environment(None))  # nobody listens to this one
        told = notices.listen_to(process)
        unheard = notices.listen_to(os.getpid())
        now[0] = 6.0
        notices.hear()
    finally:
        notices.close()
    assert watchdog == "2.5"
    assert (told.ready, told.status, told.heard_at, told.patience_until) == (True, "loads", 6.0, 36.0)
    assert (unheard.ready, unheard.status, unheard.heard_at) == (False, "", 5.0)
