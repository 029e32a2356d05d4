"""Files that grow, rotate, are cut and appear; and their order in time."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_lines import at, events_in, line, run_of

from common import tail_merge, tail_sources
from common.tail_filters import Filter
from common.tail_lines import time_of
from common.tail_merge import Window, in_order
from common.tail_sources import Logs, Splitter

ALL = Filter()


def new(logs):
    """Events of what was written since the last look."""
    return events_in(b"\n".join(one for lines in logs.new() for _, one in lines).decode())


def append(file, *lines):
    with file.open("a") as stream:
        stream.write("".join(lines))


def test_a_file_that_grows_is_read_on(tmp_path):
    file = tmp_path / "a.jsonl"
    append(file, line(1, "one"))
    logs = Logs([file], ALL)
    assert new(logs) == ["one"]
    append(file, line(2, "two"), line(3, "three"))
    assert new(logs) == ["two", "three"]
    assert new(logs) == []


def test_a_line_that_is_half_written_waits_for_its_end(tmp_path):
    file = tmp_path / "a.jsonl"
    whole = line(1, "one", text="ä" * 50)
    file.write_bytes(whole.encode()[:150])
    logs = Logs([file], ALL)
    assert new(logs) == []
    with file.open("ab") as stream:
        stream.write(whole.encode()[150:])
    assert new(logs) == ["one"]


def test_a_file_that_is_rotated_is_read_to_its_end_and_once(tmp_path):
    file = run_of(tmp_path / "run", a=[line(1, "one")]) / "logs" / "a.jsonl"
    logs = Logs([tmp_path / "run"], ALL)
    assert new(logs) == ["one"]
    append(file, line(2, "two"))
    file.rename(file.with_name("a.jsonl.1"))
    append(file, line(3, "three"))
    assert sorted(new(logs)) == ["three", "two"]
    append(file.with_name("a.jsonl.1"), line(4, "by a writer that had it open"))
    assert new(logs) == ["by a writer that had it open"]


def test_two_rotations_between_two_looks_lose_nothing(tmp_path):
    file = run_of(tmp_path / "run", a=[line(1, "one")]) / "logs" / "a.jsonl"
    logs = Logs([tmp_path / "run"], ALL)
    assert new(logs) == ["one"]
    for number, event in enumerate(("two", "three"), 2):
        if file.with_name("a.jsonl.1").exists():
            file.with_name("a.jsonl.1").rename(file.with_name("a.jsonl.2"))
        file.rename(file.with_name("a.jsonl.1"))
        append(file, line(number, event))
    assert sorted(new(logs)) == ["three", "two"]


def test_a_named_file_that_is_rotated_is_followed_by_the_one_that_takes_its_place(tmp_path):
    now = [0.0]
    file = tmp_path / "a.jsonl"
    append(file, line(1, "one"))
    logs = Logs([file], ALL, clock=lambda: now[0])
    assert new(logs) == ["one"]
    file.rename(tmp_path / "elsewhere")
    append(tmp_path / "elsewhere", line(2, "two"))
    assert new(logs) == ["two"]
    append(file, line(3, "three"))
    append(tmp_path / "elsewhere", line(4, "late"))
    assert sorted(new(logs)) == ["late", "three"]
    now[0] = 10.0
    new(logs)
    assert [os.fstat(one.descriptor).st_ino for one in logs.files] == [file.stat().st_ino]


def test_a_file_that_is_cut_is_read_from_its_begin(tmp_path):
    file = tmp_path / "a.jsonl"
    append(file, line(1, "one"), line(2, "two"), "half a li")
    logs = Logs([file], ALL)
    shown = [one for lines in logs.new() for _, one in lines]
    assert len(shown) == 2
    file.write_text(line(3, "three"))
    shown = [one for lines in logs.new() for _, one in lines]
    assert shown[0] == b"half a li"
    assert json.loads(shown[1])["event"] == "three"


def test_a_log_that_appears_later_is_read_from_its_begin(tmp_path):
    run = run_of(tmp_path / "run", a=[line(1, "one")])
    logs = Logs([run], ALL)
    assert new(logs) == ["one"]
    append(run / "logs" / "b.jsonl", line(2, "two"))
    assert new(logs) == ["two"]


def test_a_run_folder_that_has_no_logs_yet_is_waited_for(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    logs = Logs([run], ALL)
    assert new(logs) == []
    (run / "logs").mkdir()
    append(run / "logs" / "a.jsonl", line(1, "one"))
    assert new(logs) == ["one"]


def test_what_was_rotated_comes_before_what_took_its_place(tmp_path):
    logs = {"a": [line(5, "new")], "a__2": [line(1, "oldest")], "a__10": [line(0, "first")], "a__1": [line(3, "old")]}
    run = run_of(tmp_path / "run", **logs)
    (run / "logs" / "a.out").write_text("printed\n")
    (run / "logs" / "a.jsonl.gz").write_text("x")
    names = [path.name for path in tail_sources.logs_in(run)]
    assert names == ["a.jsonl.10", "a.jsonl.2", "a.jsonl.1", "a.jsonl"]
    assert tail_sources.logs_in(run / "logs") == tail_sources.logs_in(run)


def test_a_line_without_a_time_stays_behind_the_one_before_it():
    dated = Splitter(ALL).feed((line(1, "one") + "Traceback:\n  File x\n" + line(2, "two")).encode())
    assert [when.decode() for when, _ in dated] == [at(1), at(1), at(1), at(2)]


def test_a_line_without_end_is_cut_at_a_bound(monkeypatch):
    monkeypatch.setattr(tail_sources, "LONGEST", 10)
    splitter = Splitter(ALL)
    assert splitter.feed(b"x" * 8) == []
    assert splitter.feed(b"y" * 8) == [(b"", b"x" * 8 + b"y" * 8)]


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ('{"timestamp": "2026-11-23T04:00:01.000002Z", "event": "e"}', "2026-11-23T04:00:01.000002Z"),
        ('{"event": "e", "timestamp": "2026-11-23T04:00:01.000002Z"}', "2026-11-23T04:00:01.000002Z"),
        ('{"event":"e","timestamp":"2026-11-23T04:00:01.000002Z"}', "2026-11-23T04:00:01.000002Z"),
        ('{"timestamp": "2026-11-23T04:00:01Z"}', "2026-11-23T04:00:01.000000Z"),
        ('{"timestamp": "2026-11-23T06:00:01+02:00"}', "2026-11-23T04:00:01.000000Z"),
        ('{"timestamp": "2026-11-23T04:00:01"}', "2026-11-23T04:00:01.000000Z"),
        ('{"event": "step", "time": 1795406401.5}', "2026-11-23T04:00:01.500000Z"),
        ('{"event": "e"}', ""),
        ('{"timestamp": "yesterday"}', ""),
        ('{"time": 1e300}', ""),
        ("Traceback", ""),
        ("[1, 2]", ""),
    ],
)
def test_when_a_line_was_written(text, when):
    assert time_of(text.encode()).decode() == when


class Blocks:
    """A source that gives these blocks."""

    def __init__(self, *blocks):
        self.left = [[(str(when).zfill(4).encode(), f"{when}".encode()) for when in block] for block in blocks]

    def read(self):
        return self.left.pop(0) if self.left else None

    def end(self):
        return []


def merged(*sources):
    return [int(one) for lines in in_order(sources) for _, one in lines]


@given(st.lists(st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=6), max_size=4))
def test_sources_that_are_in_order_come_out_in_order(sources):
    blocks = []
    for source in sources:
        flat = iter(sorted(number for block in source for number in block))
        blocks.append(Blocks(*[[next(flat) for _ in block] for block in source]))
    assert merged(*blocks) == sorted(number for source in sources for block in source for number in block)


@given(st.lists(st.lists(st.integers(0, 99), max_size=8), max_size=4))
def test_a_source_that_is_out_of_order_within_what_is_held_comes_out_in_order(sources):
    assert merged(*[Blocks(source[:3], source[3:]) for source in sources]) == sorted(n for s in sources for n in s)


def test_what_is_held_is_bounded(monkeypatch):
    """And what lies further from its place than that is shown where it is found."""
    monkeypatch.setattr(tail_merge, "HELD_BYTES", 0)
    source = Blocks([1, 2], [3], [4], [0], [5])
    first = next(iter(in_order([source])))
    assert [int(one) for _, one in first] == [1, 2]
    assert len(source.left) == 3


def test_a_followed_line_waits_for_an_older_one_of_another_machine():
    now = [0.0]
    window = Window(0.5, lambda: now[0])
    window.add([(b"2", b"two")])
    now[0] = 0.3
    window.add([(b"1", b"one"), (b"3", b"three")])
    assert window.due() == []
    assert window.seconds_left == pytest.approx(0.2)
    now[0] = 0.6
    assert [one for _, one in window.due()] == [b"one", b"two"]
    now[0] = 0.9
    assert [one for _, one in window.due()] == [b"three"]
    assert window.seconds_left is None


def test_a_followed_line_that_comes_too_late_is_shown_all_the_same():
    now = [0.0]
    window = Window(0.5, lambda: now[0])
    window.add([(b"5", b"five")])
    now[0] = 1.0
    assert [one for _, one in window.due()] == [b"five"]
    window.add([(b"1", b"one")])
    assert [one for _, one in window.rest()] == [b"one"]
    assert window.rest() == []
