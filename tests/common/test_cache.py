import threading
from pathlib import Path

import pytest
import structlog

from common.cache import cache_folder, locked


def test_the_cache_folder_is_the_first_of_its_own_variable_the_shared_one_and_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("LOOP_CACHE")
    assert cache_folder() == tmp_path / "shared" / "loop"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "loop"


def test_a_relative_cache_folder_is_made_absolute(monkeypatch):
    monkeypatch.setenv("LOOP_CACHE", "here")
    assert cache_folder() == Path.cwd() / "here"


def test_the_second_of_two_waits_for_the_first_and_says_so(tmp_path):
    order, inside, waits = [], threading.Event(), threading.Event()

    def first():
        with locked(tmp_path / "lock", "a test"):
            inside.set()
            assert waits.wait(10)
            order.append("first leaves")

    def note(_logger, _method, event):
        if event["event"] == "waiting_for_lock":
            order.append(f"second waits: {event['purpose']}")
            waits.set()
        raise structlog.DropEvent

    holder = threading.Thread(target=first)
    holder.start()
    assert inside.wait(10)
    before = structlog.get_config()
    structlog.configure(processors=[note])
    try:
        with locked(tmp_path / "lock", "a test"):
            order.append("second enters")
    finally:
        structlog.configure(**before)
    holder.join()
    assert order == ["second waits: a test", "first leaves", "second enters"]


def test_a_lock_is_free_again_after_its_holder_failed(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "lock", "a test"):
        raise KeyError
    with locked(tmp_path / "lock", "a test"):
        assert (tmp_path / "lock").read_text().strip().isdigit()
