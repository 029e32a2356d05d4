"""The real engine with more LoRA adapters in use than it samples with at a time, and who removes them."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from event_loop import Loop
from structlog.testing import capture_logs
from tiny_model import VOCABULARY, make_adapter, make_model, reference_log_probs

from actor.config import EngineConfig
from actor.policy import Policy

# warnings of vLLM's imports, and of the process that it forks
pytestmark = pytest.mark.filterwarnings("ignore")

PROMPT = [(7 * i + 3) % VOCABULARY for i in range(140)]
SLOTS, RANK = 2, 4


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """The base's folder, and five adapters on it with what peft makes of them."""
    folder = tmp_path_factory.mktemp("adapters")
    base = make_model(folder / "m", 0)
    return base, [make_adapter(folder / f"a{seed}", base, seed, RANK) for seed in range(5)]


@pytest.fixture(scope="module")
def engine(adapters):
    loop = Loop()
    config = EngineConfig(
        dtype="float32", context_tokens=512, kv_cache_megabytes=64, adapter_rank=RANK, adapter_slots=SLOTS
    )
    start = Policy.start(adapters[0], 0, config, mode="in_flight", slots=8, seed=1, stop_ids=[])
    policy = loop.run(start)
    yield loop, policy
    loop.run(asyncio.to_thread(policy.stop))
    loop.close()


@pytest.fixture
def on_base(engine):
    """The engine with the base in use, and no adapter."""
    loop, policy = engine
    policy.mode = "in_flight"
    loop.run(policy.use(0))
    assert policy.loaded() == {0}
    return loop, policy


async def swap(policy, version, folder):
    """As the reloader does it; the probe's verdict is of other tests."""
    await policy.load_adapter(folder, version)
    await policy.score(PROMPT[:50], version)
    await policy.use(version)


def test_more_adapters_in_use_than_slots_take_turns_and_stay_exact(on_base, adapters):
    """It is told, nothing waits for ever, and each episode samples with the adapter that it began with."""
    loop, policy = on_base
    policy.mode = "between_episodes"

    async def five_episodes():
        async with AsyncExitStack() as episodes:
            pinned = []
            for version, (folder, _) in enumerate(adapters[1], start=1):
                await swap(policy, version, folder)
                pinned.append(await episodes.enter_async_context(policy.episode()))
            turns = [
                policy.generate(PROMPT, temperature=1.0, max_tokens=40, pinned=version)
                for version in pinned
                for _ in range(2)
            ]
            return pinned, await asyncio.gather(*turns), policy.loaded()

    with capture_logs() as logs:
        pinned, turns, during = loop.run(five_episodes())
    assert pinned == [1, 2, 3, 4, 5]
    assert during == {0, 1, 2, 3, 4, 5}
    for turn, version in zip(turns, [version for version in pinned for _ in range(2)], strict=True):
        assert set(turn.versions) == {version}
        expected = reference_log_probs(adapters[1][version - 1][1], [*PROMPT, *turn.ids])[len(PROMPT) - 1 :]
        assert max(abs(a - b) for a, b in zip(turn.log_probs, expected, strict=True)) < 1e-4
    told = [entry for entry in logs if entry["event"] == "adapter_slots_exceeded"]
    assert [entry["versions"] for entry in told] == [[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5]]
    assert policy.loaded() == {0, 5}


def test_a_cancelled_episode_leaves_no_adapter_behind(on_base, adapters):
    loop, policy = on_base
    policy.mode = "between_episodes"

    async def episode():
        async with policy.episode() as pinned:
            while True:
                await policy.generate(PROMPT, temperature=1.0, max_tokens=200, pinned=pinned)

    async def cancel():
        await swap(policy, 6, adapters[1][0][0])
        playing = asyncio.create_task(episode())
        while not policy.engine.under_way:  # noqa: ASYNC110 - what is waited for is the engine's
            await asyncio.sleep(0)
        await swap(policy, 7, adapters[1][1][0])
        during = policy.loaded()
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        return during, policy.loaded(), await policy.engine.vllm.list_loras()

    during, after, there = loop.run(cancel())
    assert during == {0, 6, 7}
    assert after == {0, 7}
    assert len(there) == 1


@pytest.mark.parametrize("mode", ["in_flight", "between_turns", "between_episodes"])
def test_in_every_mode_an_adapter_goes_with_its_last_user(on_base, adapters, mode):
    loop, policy = on_base
    policy.mode = mode

    async def episode():
        async with policy.episode() as pinned:
            return await policy.generate(PROMPT, temperature=1.0, max_tokens=250, pinned=pinned)

    async def there_and_on():
        await swap(policy, 8, adapters[1][2][0])
        playing = [asyncio.create_task(episode()) for _ in range(3)]
        while policy.engine.under_way < len(playing):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        await swap(policy, 9, adapters[1][3][0])
        waited_for = [turn for turn in playing if turn.done()]
        turns = await asyncio.gather(*playing)
        return waited_for, turns, policy.loaded(), await policy.engine.vllm.list_loras()

    waited_for, turns, loaded, there = loop.run(there_and_on())
    # the probe interrupts turns; they go on after it, with their own version unless the mode says otherwise
    assert waited_for == []
    for turn in turns:
        for version in set(turn.versions):
            assert version == 8 or (version == 9 and mode == "in_flight")
            expected = reference_log_probs(adapters[1][version - 6][1], [*PROMPT, *turn.ids])[len(PROMPT) - 1 :]
            pairs = zip(turn.log_probs, expected, turn.versions, strict=True)
            assert max(abs(a - b) for a, b, one in pairs if one == version) < 1e-4
    assert loaded == {0, 9}
    assert len(there) == 1
