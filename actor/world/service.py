"""AppWorld's worlds as the actor's wiring asks for them: the section `world` in, a started `WorldHost` behind it."""

from __future__ import annotations

from collections.abc import Sequence

from actor.world.check import check_tasks
from actor.world.client import World, WorldHost
from actor.world.config import WorldConfig
from actor.world.install import appworld_python
from actor.world.root import check_root, choose_root
from actor.world_protocol import WorldFailure


class AppWorlds:
    """The default of `--world.provider`. Installs AppWorld, and builds or views the data root, where they lack.

    Raises:
        UsageError: no package index and no AppWorld, or no data root; with what to do.
    """

    def __init__(self, config: WorldConfig) -> None:
        self._config = config
        self._python = appworld_python()
        self.root = choose_root(config.root)
        check_root(self.root)
        self._host: WorldHost | None = None

    def check(self, task_ids: Sequence[str]) -> None:
        """Files of the root, and those of each task, as `check_tasks`."""
        check_tasks(self.root, task_ids)

    @property
    def waiting_for(self) -> str:
        """As `WorldHost.waiting_for`."""
        return self._host.waiting_for if self._host is not None else ""

    async def start(self) -> None:
        """Warms up host and grader."""
        self._host = await WorldHost.start(self._config, self._python, self.root)

    async def open(self, task_id: str) -> World:
        """As `WorldHost.open`."""
        if self._host is None:
            raise WorldFailure("the worlds have not been started")
        return await self._host.open(task_id)

    async def close(self) -> None:
        """Ends host, grader and all open worlds."""
        if self._host is not None:
            await self._host.close()
