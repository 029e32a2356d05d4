"""Child processes of a command that starts others (`loop demo`, `loop learner`): watched, ended by their id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from common.log import PARENT, SHARED, get_logger, shared_descriptor

log = get_logger(__name__)


def parent_of_this() -> int:
    """The process that started this one, also when it is gone already; else `os.getppid` tells who took it over."""
    return int(os.environ.get(PARENT, os.getppid()))


class Children:
    """The processes that this one started, by name. Each leads a process group, so its own children end with it."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, arguments: Sequence[str], *, output: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `python -m ARGUMENTS`; what it prints is appended to `output`, what it logs has a file of its own."""
        output.parent.mkdir(parents=True, exist_ok=True)
        shared = shared_descriptor()
        logs = {} if shared is None else {SHARED: str(shared)}
        with output.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={**os.environ, PARENT: str(os.getpid()), **logs, **(environment or {})},
                pass_fds=[] if shared is None else [shared],
                # a terminal's Ctrl-C reaches this process alone, which then ends its children in order
                start_new_session=True,
            )
        self._processes[name] = process
        log.info("process_started", name=name, pid=process.pid)
        return process

    def ended(self) -> dict[str, int]:
        """Exit codes of those that ended, by name; negative is the signal that ended one."""
        return {name: code for name, process in self._processes.items() if (code := process.poll()) is not None}

    def watched(self) -> list[str]:
        """Names of those that were started and neither stopped nor forgotten."""
        return list(self._processes)

    def forget(self, name: str) -> None:
        """Stop watching a process that ended."""
        self._processes.pop(name)

    def stop(self, grace_seconds: float, names: Collection[str] | None = None) -> None:
        """SIGTERM to each (of `names`), SIGKILL to the groups of those still there after the grace time."""
        chosen = {name: self._processes.pop(name) for name in list(self._processes) if names is None or name in names}
        running = {name: process for name, process in chosen.items() if process.poll() is None}
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        for name, process in running.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("process_killed", name=name, pid=process.pid, after_seconds=grace_seconds)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def last_line(file: Path) -> str:
    """The last line that is not empty, for a message about why a process ended."""
    if not file.is_file():
        return ""
    lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:500] if lines else ""


def ending(name: str, code: int, output: Path) -> str:
    """How a child ended, in words: the signal that ended it, or its exit code and what it said last."""
    if code < 0:
        return f"the {name} was ended by {signal.Signals(-code).name}"
    said = last_line(output).removeprefix(f"{name}: ")
    return f"the {name} ended with exit code {code}{': ' + said if said else ''}"
