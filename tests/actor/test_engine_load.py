"""The real engine with a KV cache that is too small for its slots: what it tells of it, and what follows."""

import asyncio
import os

import pytest
from event_loop import Loop
from tiny_model import STOP, VOCABULARY, make_model

from actor.concurrency import Concurrency
from actor.config import EngineConfig
from actor.policy import Policy
from actor.slots import Slots

# warnings of vLLM's imports, and of the process that it forks
pytestmark = pytest.mark.filterwarnings("ignore")

MOST, BLOCK, OBSERVATION = 16, 32, 25
TEXT = [(7 * i + 3) % (VOCABULARY - 1) + 1 for i in range(400)]


class Load:
    """What the engine told, and the slots that follow it."""

    def __init__(self):
        self.changes, self.told = [], []
        self.slots = Slots(Concurrency(1, MOST, full=0.95), self.changes.append)

    def observe(self, load):
        self.told.append(load)
        self.slots.observe(load)


@pytest.fixture(scope="module")
def load():
    return Load()


@pytest.fixture(scope="module")
def engine(load, tmp_path_factory):
    """1,024 tokens of keys and values: 16 slots of 200 tokens each are three times as many."""
    loop = Loop()
    config = EngineConfig(
        dtype="float32",
        context_tokens=512,
        kv_cache_megabytes=1,
        cpus=str(min(os.sched_getaffinity(0))),
        arguments={"block-size": BLOCK},
    )
    model = make_model(tmp_path_factory.mktemp("model"), 1)

    async def start():
        words = {"mode": "in_flight", "slots": MOST, "seed": 1, "stop_ids": [STOP]}
        policy = await Policy.start(model, 0, config, on_load=load.observe, **words)
        await policy.use(0)
        return policy

    policy = loop.run(start())
    yield loop, policy
    loop.run(asyncio.to_thread(policy.stop))
    loop.close()


def test_fewer_run_at_a_time_when_the_cache_is_full_and_all_of_them_end(engine, load):
    loop, policy = engine

    async def episode(number):
        async with load.slots.one():
            ids = TEXT[number : number + 60]
            for _ in range(3):
                turn = await policy.generate(ids, temperature=1.0, max_tokens=40)
                ids = [*ids, *turn.ids, *TEXT[:10]]
            return len(ids)

    async def main():
        return await asyncio.gather(*(episode(number) for number in range(60)))

    lengths = loop.run(main())
    assert len(lengths) == 60
    assert any(one.preempted or one.usage > 0.95 for one in load.told)
    assert load.changes[0] == int(MOST * 0.75)
    assert min(load.changes) >= 1
    assert max(one.usage for one in load.told) <= 1.0
    assert load.slots.taken == 0


def test_it_grows_again_when_there_is_room(engine, load):
    loop, policy = engine

    async def episode():
        async with load.slots.one():
            await policy.generate(TEXT[:20], temperature=0.0, max_tokens=2)

    async def main():
        before = load.slots.limit
        while load.slots.limit == before:
            await asyncio.gather(*(episode() for _ in range(4 * MOST)))
        return before

    load.slots.observe(type(load.told[0])(1.0))
    assert loop.run(main()) < load.slots.limit <= MOST


def test_a_turn_computes_its_observation_alone(engine, load):
    """What stood in the context before, and what was sampled, is in the prefix cache, but for the last block."""
    loop, policy = engine

    async def episode():
        ids, computed = TEXT[100:200], []
        for _ in range(4):
            load.told.clear()
            turn = await policy.generate(ids, temperature=1.0, max_tokens=20)
            computed.append(sum(one.computed for one in load.told))
            assert computed[-1] + sum(one.cached for one in load.told) == len(ids)
            ids = [*ids, *turn.ids, *TEXT[:OBSERVATION]]
        return computed

    computed = loop.run(episode())
    assert computed[0] == 100
    # the last token that was sampled has no keys and values yet, and a block that is not full is not found again
    assert all(OBSERVATION < count <= OBSERVATION + BLOCK for count in computed[1:])


def test_the_engines_process_is_kept_to_its_cores_and_nobody_else_is(engine):
    _, policy = engine
    before = os.sched_getaffinity(os.getppid())
    processes = policy.engine.vllm.engine_core.resources.engine_manager.processes
    core = min(before)
    assert [os.sched_getaffinity(process.pid) for process in processes] == [{core}]
    assert os.sched_getaffinity(0) == before
