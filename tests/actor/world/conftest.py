"""One warm host for all tests of this folder: it takes seconds to start, a world of it milliseconds."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from actor.world.client import WorldHost
from actor.world.config import WorldConfig


class Bench:
    """A host on an event loop that outlives a test."""

    def __init__(self, runner, host, root):
        self.run, self.host, self.root = runner.run, host, root
        self.tasks = sorted(path.name for path in (root / "episode" / "data" / "tasks").iterdir())

    def solution(self, task_id):
        file = self.root / "full" / "data" / "tasks" / task_id / "ground_truth" / "solution.json"
        return json.loads(file.read_text())["cells"]

    def play(self, cells, task_id=None, *, grade=True):
        """Observations of the cells in a fresh world, and the verdict."""

        async def episode():
            world = await self.host.open(task_id or self.tasks[0])
            try:
                observations = [await world.execute(cell) for cell in cells]
                return observations, await world.grade() if grade else None
            finally:
                await world.close()

        return self.run(episode())

    def only(self, cell):
        """The observation of a single cell."""
        return self.play([cell], grade=False)[0][0]


@pytest.fixture(scope="session")
def world_config():
    return WorldConfig(cell_seconds=30, observation_characters=200_000, memory_megabytes=256, max_worlds=300)


@pytest.fixture(scope="session")
def worlds(appworld_python, world_root, world_config):
    with asyncio.Runner() as runner:
        host = runner.run(WorldHost.start(world_config, Path(appworld_python), Path(world_root)))
        yield Bench(runner, host, Path(world_root))
        runner.run(host.close())


@pytest.fixture
def as_root():
    if os.geteuid() != 0:
        pytest.skip("needs root: cells run under user ids of their own only then")
