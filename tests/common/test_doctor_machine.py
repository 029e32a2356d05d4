"""Each check of the machine says what is wrong where something is, and is content where nothing is."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from common import doctor_machine
from common.doctor_machine import GIB


def proc_of(tmp_path, *, available_gib=16.0, group="/", mounts=""):
    """A /proc of a machine with 24 GiB."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    lines = [f"MemTotal: {24 << 20} kB", f"MemAvailable: {int(available_gib * (1 << 20))} kB", "HugePages_Total: 0"]
    (proc / "meminfo").write_text("\n".join(lines) + "\n")
    (proc / "self" / "cgroup").write_text(f"0::{group}\n")
    (proc / "self" / "mountinfo").write_text(mounts)
    return proc


def groups_of(tmp_path, group="", **files):
    """A hierarchy of control groups in which one has files: `memory_max` is memory.max."""
    folder = tmp_path / "cgroup" / group
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{text}\n")
    return tmp_path / "cgroup"


@pytest.mark.parametrize(("gib", "state"), [(16, "ok"), (3.9, "warning"), (0.9, "error")])
def test_memory_is_judged_by_what_is_free(tmp_path, gib, state):
    found = doctor_machine.memory(proc_of(tmp_path, available_gib=gib), groups_of(tmp_path))
    assert (found.state, found.text) == (state, f"{gib:.1f} of 24.0 GiB free")


def test_a_containers_limit_counts_also_where_it_is_set_above_the_processs_own_group(tmp_path):
    groups = groups_of(tmp_path, "pod", memory_max=2 * GIB, memory_current=int(1.5 * GIB))
    (groups / "pod" / "own").mkdir()
    found = doctor_machine.memory(proc_of(tmp_path, group="/pod/own"), groups)
    assert (found.state, found.text) == ("error", "0.5 of 2.0 GiB free")


def test_one_core_is_few(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    found = doctor_machine.cores(proc_of(tmp_path), groups_of(tmp_path))
    assert (found.state, found.text) == ("warning", "1")


def test_a_quota_makes_many_cores_few(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert doctor_machine.cores(proc_of(tmp_path), tmp_path / "none").state == "ok"
    found = doctor_machine.cores(tmp_path / "proc", groups_of(tmp_path, cpu_max="150000 100000"))
    assert (found.state, found.text) == ("warning", "8, of which a control group allows 1.5")


def room(monkeypatch, *, gib=100.0, files=10**6):
    found = SimpleNamespace(f_bavail=int(gib * GIB / 4096), f_frsize=4096, f_files=10**7, f_favail=files)
    monkeypatch.setattr(os, "statvfs", lambda _: found)


@pytest.mark.parametrize(("gib", "state"), [(100, "ok"), (4, "warning"), (0.5, "error")])
def test_a_disk_is_judged_by_its_room(tmp_path, monkeypatch, gib, state):
    room(monkeypatch, gib=gib)
    found = doctor_machine.disk(tmp_path)
    assert (found.state, found.text) == (state, f"{gib:.1f} GiB free below {tmp_path}")


def test_what_is_wanted_of_a_disk_is_the_askers(tmp_path, monkeypatch):
    room(monkeypatch, gib=100)
    found = doctor_machine.disk(tmp_path, 200 * GIB, "so many versions")
    assert (found.state, found.remedy.startswith("so many versions wants 200.0 GiB")) == ("warning", True)


def test_a_disk_without_inodes_is_full_too(tmp_path, monkeypatch):
    room(monkeypatch, files=9_999)
    assert doctor_machine.disk(tmp_path).text == f"9999 files may still be made below {tmp_path}"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert doctor_machine.disk(tmp_path).state == "error"


def test_of_a_folder_that_is_not_there_the_next_parent_is_meant(tmp_path):
    assert doctor_machine.existing(tmp_path / "a" / "b") == tmp_path


@pytest.mark.parametrize(
    ("kind", "state"), [("ext4", "ok"), ("nfs4", "error"), ("fuse.sshfs", "error"), ("tmpfs", "warning")]
)
def test_a_network_file_system_holds_no_ledger(tmp_path, kind, state):
    own = str(tmp_path).replace(" ", r"\040")
    mounts = f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:4 / {own} rw,relatime shared:1 - {kind} from rw\n"
    found = doctor_machine.file_system(tmp_path / "run", proc_of(tmp_path, mounts=mounts))
    assert found.state == state
    assert kind in found.text


@pytest.mark.parametrize(("seconds", "state"), [(0.004, "ok"), (0.2, "warning")])
def test_a_disk_is_judged_by_what_an_fsync_takes(tmp_path, monkeypatch, seconds, state):
    ticks = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks) * seconds)
    found = doctor_machine.sync_speed(tmp_path)
    assert (found.state, found.text.split(" for ")[0]) == (state, f"{seconds * 1000:.1f} ms")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_is_an_error(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    found = doctor_machine.sync_speed(tmp_path)
    assert (found.state, found.text) == ("error", f"writing in {tmp_path} fails: No space left on device")


@pytest.mark.parametrize(
    ("told", "state", "text"),
    [
        ((True, 12_000), "ok", "kept by NTP, within 12 ms"),
        ((False, 16_000_000), "warning", "nothing keeps it right (NTP)"),
        ((None, 0), "warning", "the kernel does not say whether anything keeps it right"),
    ],
)
def test_a_clock_is_right_where_ntp_keeps_it(monkeypatch, told, state, text):
    monkeypatch.setattr(doctor_machine, "synchronised", lambda: told)
    found = doctor_machine.clock()
    assert (found.state, found.text) == (state, text)


def test_a_clock_behind_the_program_itself_is_an_error(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert doctor_machine.clock().state == "error"


def test_the_kernel_is_asked_whether_its_clock_is_kept():
    held, most = doctor_machine.synchronised()
    assert held in (True, False, None)
    assert most >= 0
