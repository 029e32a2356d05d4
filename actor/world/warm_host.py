"""The actor's side of the host process, which is warm once and forks every episode: started again when it dies."""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path
from typing import Any

from actor.world.guards import insist, missing_guards
from actor.world.process import WorldProcess
from actor.world.transport import packet
from actor.world_protocol import WorldFailure
from common.log import about_nothing, get_logger

log = get_logger(__name__)
RESTART_SECONDS = (0.0, 0.5, 2.0, 5.0, 15.0)  # waits before it is started again; the last one repeats


class WarmHost:
    """The host process: one at a time, for all who open worlds.

    Args:
        python: of AppWorld's virtualenv.
        settings: what the process is told at its start; in `scratch` lie the worlds' folders, of which those of a host
            that died are removed.
        required: all guards, or it does not start.
    """

    def __init__(self, python: Path, settings: dict[str, Any], *, required: bool) -> None:
        self._python, self._settings, self._required = python, settings, required
        self._scratch = Path(settings["scratch"])
        self.restarts = 0
        self.guards: tuple[str, ...] = ()
        self.waiting_for = ""  # in words, while it starts again
        self.process: WorldProcess | None = None
        self._warming: asyncio.Task[WorldProcess] | None = None  # for all who wait for it: nobody's own
        self._failed_starts = 0
        self._closed = False

    async def running(self) -> WorldProcess:
        """The warm process, started (again) where there is none. Who waits no longer does not end the start.

        Raises RunError when it does not start, WorldFailure when all is closed.
        """
        if self.process is not None and self.process.alive:
            return self.process
        if self._closed:
            raise WorldFailure("the worlds are closed")
        if self._warming is None or self._warming.done():
            self._warming = asyncio.create_task(self._start(), context=about_nothing())
        return await asyncio.shield(self._warming)

    async def shut(self) -> None:
        """From now on nothing starts."""
        self._closed = True
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)

    async def close(self) -> None:
        """Ends the process. Idempotent."""
        await self.shut()
        if self.process is not None:
            await self.process.stop()

    async def _start(self) -> WorldProcess:
        try:
            if self.process is not None:
                await self._bury(self.process)
            self._failed_starts += 1
            self.process = await self._new()
        except asyncio.CancelledError:  # by `shut` alone: who waits for it is not cancelled
            raise WorldFailure("the worlds are closed") from None
        finally:
            self.waiting_for = ""
        self._failed_starts = 0
        return self.process

    async def _bury(self, process: WorldProcess) -> None:
        self.waiting_for = "the worlds' host, which died and starts again"
        await process.stop()
        self.restarts += 1
        log.error("world_host_died", returncode=process.process.returncode, restarts=self.restarts)
        await asyncio.sleep(RESTART_SECONDS[min(self._failed_starts, len(RESTART_SECONDS) - 1)])
        for folder in self._scratch.glob("[0-9]*"):
            shutil.rmtree(folder, ignore_errors=True)

    async def _new(self) -> WorldProcess:
        process = await WorldProcess.start("actor.world.host", socket.SOCK_SEQPACKET, self._python, self._settings)
        told = await process.first_word(packet(process.sock))
        self.guards = tuple(told["guards"])
        missing = missing_guards(self.guards)
        log.info("world_host_ready", seconds=told["seconds"], guards=list(self.guards), missing=missing)
        if missing and self._required:
            self.process = process
            process.sock.close()  # it ends when it sees that, and `close` buries it: here a cancellation may come
            insist("the world's host", missing)
        return process
