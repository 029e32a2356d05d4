"""The warm process in AppWorld's virtualenv: builds a group's world once and forks its members from it.

Opening requests come over a control socket, each with the socket of its episode; the forked member speaks with the
client itself, so this process never waits for a cell. It has one thread: a forked child finds all locks free.
Started by the client as `main(control descriptor, settings as JSON)`; ends when the control socket closes.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actor.world import engine, frames, member, probe, sandbox, warm

COLLECT_EVERY = 32  # templates between two full collections
COLLAPSE_AT = 3  # forks of one template from which on copying fewer page tables pays for collapsing its memory
MESSAGE = 1 << 16


@dataclass
class Waiting:
    """An episode that asked for its world, or for a fresh cell process in the place of a killed one."""

    number: int
    task_id: str
    sock: socket.socket  # of the new process and the client
    shell: socket.socket | None = None  # a fresh cell process's, to its member

    def close(self) -> None:
        for sock in (self.sock, self.shell):
            if sock is not None:
                sock.close()


@dataclass
class Host:
    """The master: one template at a time, its living members, and what waits."""

    control: socket.socket
    scratch: Path
    characters: int
    limits: sandbox.Limits
    guards: tuple[str, ...]
    log_calls: bool
    pages: engine.HugePages
    waiting: list[Waiting] = field(default_factory=list)
    template: engine.Template | None = None
    members: dict[int, int] = field(default_factory=dict)  # pid -> episode number
    cells: dict[int, int] = field(default_factory=dict)  # pid -> episode number, until it is buried
    announced: tuple[int, int] = field(default_factory=os.pipe)  # where cell processes say who they are
    opened: int = 0
    forked: int = 0  # processes from this template

    def serve(self) -> None:
        """Until the client closes the control socket."""
        ended, wake = os.pipe()
        for descriptor in (ended, wake, self.announced[0]):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(ended, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll(0 if self.waiting else None)]
            if ended in ready:
                os.read(ended, MESSAGE)
                self._reap()
            if self.control.fileno() in ready and not self._read():
                return
            self._open_next()

    def close(self) -> None:
        """Ends every member that is left."""
        for pid in self.members:
            os.kill(pid, signal.SIGKILL)
        while self._reap(wait=True):
            pass

    def _reap(self, *, wait: bool = False) -> bool:
        """Buries the dead: members, and cell processes, which are this process's once their member has died.

        False: there is no child left. Nobody but this function takes a dead process off the kernel's table, so a pid
        that it kills cannot have become another's.
        """
        options = os.WEXITED | os.WNOWAIT | (0 if wait else os.WNOHANG)
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, options)
            except ChildProcessError:
                return False
            if dead is None:
                return True
            self._hear()
            number = self.members.pop(dead.si_pid, None)
            self.cells.pop(dead.si_pid, None)
            for pid in [pid for pid, episode in self.cells.items() if episode == number]:
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError, PermissionError):  # what is left of its process group
                os.killpg(dead.si_pid, signal.SIGKILL)
            os.waitpid(dead.si_pid, 0)
            if number is not None:
                shutil.rmtree(self.scratch / str(number), ignore_errors=True)

    def _hear(self) -> None:
        """Which process runs which episode's cells: a member under another user id cannot end it by itself."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.announced[0], member.ANNOUNCEMENT.size * 512):
                self.cells.update((pid, number) for number, pid in member.ANNOUNCEMENT.iter_unpack(data))

    def _read(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, descriptors, _, _ = socket.recv_fds(self.control, MESSAGE, 2)
                if not data:
                    return False
                asked = json.loads(data)
                socks = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                self.waiting.append(Waiting(asked["open"], asked["task"], *socks))
        return True

    def _open_next(self) -> None:
        """Serves all who wait for the task that is built, or else for the one that has waited longest."""
        if not self.waiting:
            return
        known = self.template.task_id if self.template else None
        task_id = known if any(one.task_id == known for one in self.waiting) else self.waiting[0].task_id
        group = [one for one in self.waiting if one.task_id == task_id]
        self.waiting = [one for one in self.waiting if one.task_id != task_id]
        try:
            template = self._built(str(task_id))
        except (OSError, MemoryError) as error:
            self._turn_away(group, "failed", error)
            return
        except Exception as error:  # noqa: BLE001  # whatever is wrong with this task is wrong with this task alone
            self._turn_away(group, "refused", error)
            return
        if self.forked < COLLAPSE_AT <= self.forked + len(group):
            self.pages.collapse()
        for one in group:
            try:
                self._fork(template, one)
                self.forked += 1
            except OSError as error:
                self._turn_away([one], "failed", error)

    @staticmethod
    def _turn_away(group: list[Waiting], how: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        for one in group:
            with contextlib.suppress(OSError):
                frames.send(one.sock, {how: reason})
            one.close()

    def _built(self, task_id: str) -> engine.Template:
        if self.template is not None and self.template.task_id == task_id:
            return self.template
        if self.template is not None:
            self.template.close()
            self.template = None
        self.opened += 1
        if self.opened % COLLECT_EVERY == 0:
            gc.collect()
        self.template, self.forked = engine.Template(task_id), 0
        return self.template

    def _fork(self, template: engine.Template, one: Waiting) -> None:
        as_root = "own-uid" in self.guards
        base = sandbox.FIRST_UID + 2 * (one.number % 2000)
        folder = self.scratch / str(one.number)
        if one.shell is None:
            folder.mkdir(mode=0o700)
            if as_root:
                os.chown(folder, base, base)
        elif one.number not in self.members.values():
            raise ProcessLookupError("the episode's member has ended")
        terms = member.Terms(
            characters=self.characters,
            limits=self.limits,
            member_uid=base + 1 if as_root else None,
            cell_uid=base if as_root else None,
            folder=str(folder),
            number=one.number,
            announce=self.announced[1],
            log_calls=self.log_calls,
        )
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if one.shell is not None:
                member.run_fresh_cell(template, one.sock, one.shell, terms)
            member.run(template, one.sock, terms)
        one.close()
        (self.members if one.shell is None else self.cells)[pid] = one.number


def main(descriptor: int, settings: dict[str, Any]) -> None:
    """Warms up, says so, serves. Errors at start are told to the client as one line."""
    control = socket.socket(fileno=descriptor)
    started = time.clock_gettime(time.CLOCK_MONOTONIC)
    try:
        host = _start(control, settings)
    except Exception as error:  # the client turns it into one clear line for a person
        control.send(json.dumps({"failed": f"{type(error).__name__}: {error}".splitlines()[0]}).encode())
        raise
    seconds = time.clock_gettime(time.CLOCK_MONOTONIC) - started
    control.send(json.dumps({"ready": True, "seconds": round(seconds, 2), "guards": host.guards}).encode())
    control.setblocking(False)
    try:
        host.serve()
    finally:
        host.close()
        shutil.rmtree(settings["scratch"], ignore_errors=True)  # the client may have been killed
    sys.stderr.flush()
    os._exit(0)


def _start(control: socket.socket, settings: dict[str, Any]) -> Host:
    os.umask(0o022)  # the folders of the private root are for everybody to pass
    scratch = Path(settings["scratch"])
    engine.set_paths(Path(settings["root"]), scratch)
    engine.prepare_imports()
    engine.accelerate()
    warm.warm_up(settings["warm_task"])
    pages = engine.settle()
    nice = os.getpriority(os.PRIO_PROCESS, 0) + sandbox.YIELD
    limits = sandbox.Limits(sandbox.address_space() + settings["memory_bytes"], settings["cpu_seconds"], nice=nice)
    sandbox.adopt_orphans()
    outside = probe.Outside()
    guards = sandbox.enter([*sandbox.own_code(), Path(settings["root"])], scratch)
    guards = probe.held(guards, outside, "/", limits)
    outside.close()
    return Host(control, scratch, settings["characters"], limits, guards, settings["log_calls"], pages)
