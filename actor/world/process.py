"""Starts a process of AppWorld's virtualenv and passes what it prints to the log, one event a line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from actor.world import frames
from common.errors import RunError
from common.log import about_nothing, get_logger

log = get_logger(__name__)
PACKAGE = Path(__file__).parent.parent
LINE_LIMIT = 1 << 16
MOST_TEXT = 2000  # characters of a line that the log takes
START_SECONDS = 600.0  # ten cold engines at once on two cores needed 180
INSTALL_ANEW = "where its installation is broken, remove the folder that 'loop world install' names and run that again"
AHEAD = 10  # steps of priority
# The project's own folder never enters sys.path: beside an installed project lie packages that the engine cannot bear.
BOOT = """
import importlib, json, sys, types
package = types.ModuleType("actor")
package.__path__ = [sys.argv[1]]
sys.modules["actor"] = package
importlib.import_module(sys.argv[2]).main(int(sys.argv[3]), json.loads(sys.argv[4]))
"""


class WorldProcess:
    """One running process and our end of its socket."""

    def __init__(self, module: str, process: asyncio.subprocess.Process, sock: socket.socket) -> None:
        self.module, self.process, self.sock = module, process, sock
        self.last_words = ""  # the last line that it printed
        self._reader = asyncio.create_task(self._pass_on(), context=about_nothing())

    @classmethod
    async def start(cls, module: str, kind: socket.SocketKind, python: Path, settings: dict[str, Any]) -> WorldProcess:
        """Starts `module.main(descriptor, settings)` with an environment of nothing but what the engine needs.

        Raises:
            RunError: there is no process, or the system does not start this python.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        try:
            process = await asyncio.create_subprocess_exec(
                *(str(python), "-P", "-s", "-c", BOOT),
                *(str(PACKAGE), module, str(theirs.fileno()), json.dumps(settings)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                process_group=0,  # an interrupt from the terminal is for the client alone
                limit=LINE_LIMIT,
                env={"LANG": "C.UTF-8", "PATH": os.defpath, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
            )
        except OSError as error:
            ours.close()
            raise RunError(f"{module} did not start: {python}: {error.strerror}; {INSTALL_ANEW}") from None
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        return cls(module, process, ours)

    async def first_word(self, told: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """What the process says when it is warm. Raises RunError, and stops it, when it fails or says nothing."""
        try:
            async with asyncio.timeout(START_SECONDS):
                head = await told
            if "failed" not in head:
                self._go_first()
                return head
            reason = head["failed"]
        except (OSError, EOFError, TimeoutError, frames.BadFrame) as error:
            reason = str(error) or f"it said nothing for {START_SECONDS:g} seconds"
        except BaseException:
            await self.stop(0.0)
            raise
        await self.stop(0.5)
        said = f"; its last words: {self.last_words[:500]}" if self.last_words else ""
        raise RunError(f"{self.module} did not start: {reason}{said}; {INSTALL_ANEW}")

    def _go_first(self) -> None:
        """All episodes wait for this process, which works in short bursts: priority over them, where it may be had."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self.process.pid, os.getpriority(os.PRIO_PROCESS, 0) - AHEAD)

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    async def stop(self, seconds: float = 5.0) -> None:
        """Closes its socket, which asks it to end; kills it when it does not."""
        self.sock.close()
        try:
            async with asyncio.timeout(seconds):
                await self.process.wait()
        except TimeoutError:
            self.kill()
            await self.process.wait()
        # What it said last is still passed on; a member that outlives it holds the same pipe, so not for ever.
        await asyncio.wait({self._reader}, timeout=1.0)
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)

    async def _pass_on(self) -> None:
        assert self.process.stdout is not None
        while True:
            try:
                line = await self.process.stdout.readline()
            except ValueError:  # a line above the limit: its buffer is gone, the next one starts afresh
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self.last_words = text or self.last_words
            log.warning("world_engine_said", source="appworld", part=self.module, text=text[:MOST_TEXT])
