"""Slots among tasks of one event loop."""

import asyncio

from actor.concurrency import Concurrency, Load
from actor.slots import Slots

FULL = Load(1.0)


def slots_of(most, least=1):
    changes = []
    return Slots(Concurrency(least, most, full=0.95), changes.append), changes


class Episodes:
    """So many that want a slot, in order; each leaves when it is told."""

    def __init__(self, slots, count):
        self.begun, self.leave = [], [asyncio.Event() for _ in range(count)]
        self.tasks = [asyncio.create_task(self.play(slots, number)) for number in range(count)]

    async def play(self, slots, number):
        async with slots.one():
            self.begun.append(number)
            await self.leave[number].wait()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def test_who_came_first_is_first_and_no_more_than_the_limit_sample():
    async def main():
        slots, _ = slots_of(2)
        episodes = Episodes(slots, 5)
        await settle()
        seen = [list(episodes.begun)]
        for number in (1, 0, 2):
            episodes.leave[number].set()
            await settle()
            assert slots.taken == 2
            seen.append(list(episodes.begun))
        for event in episodes.leave:
            event.set()
        await asyncio.gather(*episodes.tasks)
        return seen, slots.taken

    assert asyncio.run(main()) == ([[0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]], 0)


def test_a_lower_limit_lets_those_who_sample_go_on_and_nobody_begin():
    async def main():
        slots, changes = slots_of(4)
        episodes = Episodes(slots, 8)
        await settle()
        slots.observe(FULL)
        episodes.leave[0].set()
        await settle()
        after_one = list(episodes.begun)
        episodes.leave[1].set()
        await settle()
        said = slots.waiting_for
        for event in episodes.leave:
            event.set()
        await asyncio.gather(*episodes.tasks)
        return after_one, changes, said

    after_one, changes, said = asyncio.run(main())
    assert (after_one, changes) == ([0, 1, 2, 3], [3])
    assert said == "room in the engine's KV cache: 3 of 4 episodes at a time"


def test_a_higher_limit_lets_those_who_wait_begin_at_once():
    async def main():
        slots, changes = slots_of(3)
        slots.observe(FULL)
        episodes = Episodes(slots, 5)
        await settle()
        before = list(episodes.begun)
        slots.observe(Load(0.1, finished=2))
        await settle()
        after = list(episodes.begun)
        for event in episodes.leave:
            event.set()
        await asyncio.gather(*episodes.tasks)
        return before, after, changes

    assert asyncio.run(main()) == ([0, 1], [0, 1, 2], [2, 3])


def test_one_that_gives_up_waiting_takes_no_slot_with_it():
    async def main():
        slots, _ = slots_of(1)
        episodes = Episodes(slots, 4)
        await settle()
        episodes.tasks[1].cancel()
        await settle()
        episodes.leave[0].set()
        await asyncio.sleep(0)  # handed over to 2, which has not begun yet
        episodes.tasks[2].cancel()
        await settle()
        begun = list(episodes.begun)
        episodes.leave[3].set()
        await asyncio.gather(*episodes.tasks, return_exceptions=True)
        return begun, slots.taken

    assert asyncio.run(main()) == ([0, 3], 0)


def test_once_shut_nobody_begins():
    async def main():
        slots, _ = slots_of(1)
        episodes = Episodes(slots, 2)
        await settle()
        slots.shut()
        episodes.leave[0].set()
        await settle()
        episodes.tasks[1].cancel()
        await asyncio.gather(*episodes.tasks, return_exceptions=True)
        return episodes.begun

    assert asyncio.run(main()) == [0]
