"""A systemd of its own, as process 1 of namespaces: it sees this machine's files and its own units alone. Linux, root.

It shares nothing with a systemd that the machine may run: processes, mounts, control groups, host name and /run are its
own, and all that it started ends with it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

BOOT = """
set -e
mount --make-rprivate /
mount --make-rshared /
mount -t tmpfs none /run
mkdir -p /run/systemd/system /run/lock
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
hostname looptest
export container=loop SYSTEMD_UNIT_PATH={units}
exec {systemd} --system --unit=multi-user.target --show-status=no --log-target=console
"""
SYSTEMD = Path("/lib/systemd/systemd")
NAMESPACES = ("--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child", "--mount-proc")
TARGETS = ("sysinit", "basic", "shutdown", "multi-user")
PATIENCE = 120.0  # seconds


class Booted:
    """A running one. `units` is its folder of unit files."""

    def __init__(self, folder: Path) -> None:
        self.units = folder / "units"
        self.units.mkdir()
        for target in TARGETS:
            (self.units / f"{target}.target").write_text(f"[Unit]\nDescription={target}\nDefaultDependencies=no\n")
        self._group = _version_2() / f"loop-test-{os.getpid()}"
        self._group.mkdir()
        script = BOOT.format(units=shlex.quote(str(self.units)), systemd=SYSTEMD)
        command = shlex.join(["unshare", *NAMESPACES, "sh", "-c", script])
        enter = f"echo $$ > {shlex.quote(str(self._group / 'cgroup.procs'))}; exec {command}"
        self.log = folder / "systemd.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                ["sh", "-c", enter], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            self._first = self._found()
            self.until(lambda: self.systemctl("is-active", "multi-user.target").returncode == 0, "systemd to be up")
        except BaseException:
            self.close()
            raise

    def systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """As the administrator of that systemd."""
        inside = ["nsenter", "-t", str(self._first), "-m", "-p", "-u", "-i", "-C", "systemctl", "--no-pager", *words]
        return subprocess.run(inside, capture_output=True, text=True, check=False)

    def shown(self, unit: str) -> dict[str, str]:
        """A unit's properties."""
        lines = self.systemctl("show", unit).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def until(self, condition, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self._process.poll() is None, f"systemd ended: {self.log.read_text(errors='replace')[-2000:]}"
            assert time.monotonic() < deadline, f"no {what}: {self.log.read_text(errors='replace')[-2000:]}"
            time.sleep(0.1)

    def close(self) -> None:
        """All that it started goes with it."""
        with contextlib.suppress(ProcessLookupError, AttributeError):
            os.kill(self._first, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + PATIENCE
        while self._group.exists() and time.monotonic() < deadline:
            for group in sorted(self._group.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):
                    group.rmdir()
            with contextlib.suppress(OSError):
                self._group.rmdir()
            time.sleep(0.1)

    def _found(self) -> int:
        """systemd's process as this machine sees it: the only child of `unshare`."""
        found: list[str] = []

        def is_there() -> bool:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            found[:] = children.read_text().split()
            return bool(found) and Path(f"/proc/{found[0]}/comm").read_text().strip() == "systemd"

        self.until(is_there, "systemd to start")
        return int(found[0])


def _version_2() -> Path:
    """Where control groups of version 2 are. Raises OSError when nowhere."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise OSError("no control groups of version 2 are mounted")


@contextlib.contextmanager
def booted(folder: Path) -> Iterator[Booted]:
    """A systemd that is up; skips the test where none can be had, with the reason."""
    import pytest

    if not SYSTEMD.exists():
        pytest.skip("no systemd on this machine: apt install systemd")
    if os.geteuid() != 0:
        pytest.skip("a systemd in namespaces of its own needs root")
    try:
        made = Booted(folder)
    except (OSError, AssertionError) as error:
        pytest.skip(f"no systemd can be booted here: {error}")
    try:
        yield made
    finally:
        made.close()
