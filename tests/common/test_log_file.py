"""A log's file by its size: nothing is torn, doubled or lost while several write and one sets it aside."""

from __future__ import annotations

import fcntl
import os
import resource
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.log_file import LogFile


@contextmanager
def opened(path, most_bytes=1000, kept=3):
    file = LogFile(path, most_bytes, kept)
    yield file
    file.close()


def line(number, writer="a", size=100):
    """`size` bytes that name their writer and number."""
    return f"{writer} {number:06d} ".encode().ljust(size - 1, b".") + b"\n"


def named(data):
    """(writer, number) of each line; a line that is not whole fails here."""
    rows = data.splitlines(keepends=True)
    assert [row for row in rows if len(row) != 100 or not row.endswith(b"\n")] == []
    return [(row.split()[0].decode(), int(row.split()[1])) for row in rows]


def everything(path):
    """All that is there, the oldest file first."""
    aside = sorted(path.parent.glob(f"{path.name}.*"), key=lambda file: -int(file.suffix[1:]))
    return b"".join(file.read_bytes() for file in [*aside, path] if file.exists())


def in_child(work):
    """The id of a forked process that does it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def end_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_file_is_set_aside_before_it_grows_too_large_and_the_oldest_goes(tmp_path):
    path = tmp_path / "logs" / "actor.jsonl"
    with opened(path) as file:
        for number in range(65):
            file.write(line(number))
    sizes = {one.name: one.stat().st_size for one in path.parent.iterdir()}
    assert sizes == {"actor.jsonl": 500, "actor.jsonl.1": 1000, "actor.jsonl.2": 1000, "actor.jsonl.3": 1000}
    assert named(everything(path)) == [("a", number) for number in range(30, 65)]


def test_where_none_is_kept_the_file_begins_anew(tmp_path):
    with opened(tmp_path / "log", kept=0) as file:
        for number in range(15):
            file.write(line(number))
    assert [one.name for one in tmp_path.iterdir()] == ["log"]
    assert named(everything(tmp_path / "log")) == [("a", number) for number in range(10, 15)]


def test_a_line_larger_than_a_file_is_written_all_the_same(tmp_path):
    with opened(tmp_path / "log") as file:
        file.write(line(1))
        file.write(b"x" * 5000 + b"\n")
        file.write(line(2))
    assert [(tmp_path / name).stat().st_size for name in ("log.2", "log.1", "log")] == [100, 5001, 100]


@pytest.mark.parametrize("inherited", [True, False])
def test_forked_writers_lose_and_tear_nothing_while_each_sets_the_file_aside(tmp_path, inherited):
    path = tmp_path / "log"
    with opened(path, kept=1_000) as file:

        def write(name):
            own = file if inherited else LogFile(path, 1000, 1_000)
            for number in range(200):
                own.write(line(number, name))

        children = [in_child(lambda name=name: write(name)) for name in "bcd"]
        write("a")
        assert [end_of(pid) for pid in children] == [0, 0, 0]
    found = named(everything(path))
    assert sorted(found) == [(name, number) for name in "abcd" for number in range(200)]
    assert len(list(tmp_path.glob("log.*"))) >= 2


def test_threads_of_one_process_lose_and_tear_nothing(tmp_path):
    path, descriptors = tmp_path / "log", Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    with opened(path, kept=1_000) as file:

        def write(name):
            for number in range(200):
                file.write(line(number, name))

        threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(descriptors.iterdir())) == before + 1, "descriptors are given back"
    assert sorted(named(everything(path))) == [(name, number) for name in "abcd" for number in range(200)]


def test_a_process_that_is_stopped_while_it_sets_the_file_aside_holds_up_nobody(tmp_path):
    path = tmp_path / "log"
    stopped = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(stopped, fcntl.LOCK_EX)
    with opened(path) as file:
        for number in range(15):
            file.write(line(number))
        assert path.stat().st_size == 1500
        os.close(stopped)
        file.write(line(15))
    assert named(path.read_bytes()) == [("a", 15)]
    assert named(everything(path)) == [("a", number) for number in range(16)]


def test_a_file_that_somebody_removed_is_made_again(tmp_path):
    path = tmp_path / "log"
    with opened(path) as file:
        file.write(line(1))
        path.unlink()
        file.write(line(2))
    assert named(path.read_bytes()) == [("a", 2)]


def test_a_folder_that_is_gone_costs_lines_only(tmp_path):
    path = tmp_path / "logs" / "log"
    with opened(path) as file:
        path.unlink()
        path.parent.rmdir()
        file.write(line(1))
        path.parent.mkdir()
        file.write(line(2))
    assert named(path.read_bytes()) == [("a", 2)]


def test_a_full_disk_costs_lines_only(tmp_path):
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    with opened(path) as file:
        file.write(line(1))
        path.unlink()  # room again
        file.write(line(2))
    assert named(path.read_bytes()) == [("a", 2)]


def test_what_follows_a_line_that_was_written_in_part_is_a_line_of_its_own(tmp_path):
    path = tmp_path / "log"

    def write():
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        with opened(path) as file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (250, hard))  # as a disk that is nearly full
            for number in range(4):
                file.write(line(number))
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            file.write(line(4))

    assert end_of(in_child(write)) == 0
    rows = path.read_bytes().splitlines()
    assert [len(row) for row in rows] == [99, 99, 50, 99]
    assert rows[-1].startswith(b"a 000004 ")


def test_a_line_that_another_process_left_in_part_does_not_spoil_the_first_one_of_the_next(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(line(1) + line(2)[:40])
    with opened(path) as file:
        file.write(line(3))
        file.write(line(4))
    assert [len(row) for row in path.read_bytes().splitlines()] == [99, 40, 99, 99]


def test_a_descriptor_is_not_left_to_what_the_process_starts(tmp_path):
    with opened(tmp_path / "log") as file:
        for number in range(15):
            file.write(line(number))
        assert not os.get_inheritable(file._descriptor)
