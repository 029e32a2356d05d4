"""An episode that the learner cancels in the middle of a cell that never ends: its world is gone at once."""

import asyncio
import os

import pytest
import recording
from scripted import make_lease

from actor.episode import run_episode
from actor.world.transport import ready


class Watched:
    """Worlds that say when a cell is under way, and keep a descriptor of its process."""

    def __init__(self, host):
        self.host, self.executing, self.cell = host, asyncio.Event(), -1

    async def open(self, task_id):
        self.world = await self.host.open(task_id)
        self.task = self.world.task
        return self

    async def execute(self, code):
        self.cell = os.dup(self.world._pidfds[1])
        self.executing.set()
        return await self.world.execute(code)

    async def close(self):
        await self.world.close()


def test_its_cell_is_killed_long_before_its_own_limit_and_the_place_is_free(worlds, world_config):
    prompt = recording.make_prompt()
    script = recording.Script(prompt, ["while True:\n    pass"])

    async def cancelled():
        watched = Watched(worlds.host)
        before = len(worlds.host._worlds)
        lease = make_lease(task_id=worlds.tasks[0], max_turn_tokens=1000, max_context_tokens=4000)
        episode = asyncio.create_task(run_episode(lease, script, watched, prompt, 4000))
        await watched.executing.wait()
        await asyncio.sleep(0)  # the cell's code is on its way
        assert len(worlds.host._worlds) == before + 1
        episode.cancel()
        with pytest.raises(asyncio.CancelledError):
            await episode
        try:
            async with asyncio.timeout(world_config.cell_seconds / 2):
                await ready(watched.cell, write=False)  # its process has ended
        finally:
            os.close(watched.cell)
        return len(worlds.host._worlds) - before

    assert worlds.run(cancelled()) == 0
