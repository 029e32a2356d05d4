"""The real engine: log-probs, versions, swaps and caches, against forward passes by transformers."""

import asyncio
import os

import pytest
from event_loop import Loop
from tiny_model import STOP, VOCABULARY, make_adapter, make_model, reference_log_probs

from actor.config import EngineConfig
from actor.engine import RequestFailure
from actor.policy import Policy
from common.errors import RunError

# warnings of vLLM's imports, and of the process that it forks
pytestmark = pytest.mark.filterwarnings("ignore")

PROBE = [(7 * i + 3) % VOCABULARY for i in range(300)]
RANK = 4


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of three full models, and of two adapters on the first with what peft says of them."""
    folder = tmp_path_factory.mktemp("models")
    return [make_model(folder / f"m{seed}", seed) for seed in range(3)]


@pytest.fixture(scope="module")
def adapters(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(folder / f"a{seed}", models[0], seed, RANK) for seed in (11, 12)]


@pytest.fixture(scope="module")
def engine(models):
    loop = Loop()
    config = EngineConfig(dtype="float32", context_tokens=1024, kv_cache_megabytes=64, adapter_rank=RANK)
    start = Policy.start(models[0], 0, config, mode="in_flight", slots=16, seed=1, stop_ids=[STOP])
    policy = loop.run(start)
    yield loop, policy
    loop.run(asyncio.to_thread(policy.stop))
    loop.close()


@pytest.fixture
def on_start(engine, models):
    """The engine with version 0 in use."""
    loop, policy = engine

    async def reset():
        policy.mode = "in_flight"
        async with policy.held():
            await policy.load_full(models[0], 0)
        await policy.use(0)

    loop.run(reset())
    return loop, policy


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what is waited for is the engine's, and tells nobody
        await asyncio.sleep(0)


def assert_close(found, expected, within=1e-5):
    assert len(found) == len(expected)
    assert max((abs(a - b) for a, b in zip(found, expected, strict=True)), default=0.0) < within


def sampled_log_probs(model, prompt, ids, temperature=1.0):
    return reference_log_probs(model, [*prompt, *ids], temperature)[len(prompt) - 1 :]


def test_behaviour_log_probs_are_those_of_a_forward_pass(on_start, models):
    loop, policy = on_start
    prompt = PROBE[:40]
    sampled = loop.run(policy.generate(prompt, temperature=1.0, max_tokens=50))
    assert_close(sampled.log_probs, sampled_log_probs(models[0], prompt, sampled.ids))
    assert sampled.versions == [0] * len(sampled.ids)


def test_behaviour_log_probs_are_of_the_temperature_that_was_sampled_at(on_start, models):
    loop, policy = on_start
    sampled = loop.run(policy.generate(PROBE[:40], temperature=0.5, max_tokens=30))
    assert_close(sampled.log_probs, sampled_log_probs(models[0], PROBE[:40], sampled.ids, temperature=0.5))


def test_temperature_zero_takes_the_likeliest_token_every_time(on_start):
    loop, policy = on_start
    first = loop.run(policy.generate(PROBE[:30], temperature=0.0, max_tokens=20))
    again = loop.run(policy.generate(PROBE[:30], temperature=0.0, max_tokens=20))
    assert first.ids == again.ids


def test_the_stop_token_is_part_of_the_turn(on_start, models):
    loop, policy = on_start

    async def many():
        asked = [policy.generate([5 + i, 9, 33], temperature=1.5, max_tokens=120) for i in range(16)]
        return await asyncio.gather(*asked)

    turns = loop.run(many())
    stopped = [turn for turn in turns if turn.finish == "stop"]
    assert stopped
    for turn in stopped:
        assert turn.ids[-1] == STOP
        assert STOP not in turn.ids[:-1]
    assert all(len(turn.ids) == 120 for turn in turns if turn.finish == "length")


def test_a_probe_gives_the_log_probs_of_a_forward_pass(on_start, models):
    loop, policy = on_start
    (score,) = loop.run(policy.score(PROBE, 0))
    assert_close(score.log_probs, reference_log_probs(models[0], PROBE))


def test_full_weights_that_are_swapped_in_are_exactly_those(on_start, models):
    loop, policy = on_start

    async def swap():
        async with policy.held():
            await policy.load_full(models[1], 1)
            return await policy.score(PROBE, 1)

    found = loop.run(swap())[0].log_probs
    assert_close(found, reference_log_probs(models[1], PROBE))
    # and the probe can tell: the weights before differ by far more than any tolerance
    assert max(abs(a - b) for a, b in zip(found, reference_log_probs(models[0], PROBE), strict=True)) > 0.5


def test_a_turn_under_way_goes_on_with_the_new_version_and_every_token_says_its_own(on_start, models):
    loop, policy = on_start
    prompts = [[5 + i, *PROBE[:50]] for i in range(6)]

    async def swap_in_flight():
        under_way = [
            asyncio.create_task(policy.generate(prompt, temperature=1.0, max_tokens=150)) for prompt in prompts
        ]
        await until(lambda: policy.engine.under_way == len(prompts))
        # a short turn that comes back says that the engine has worked on the others meanwhile
        await policy.generate(PROBE[:20], temperature=1.0, max_tokens=10)
        async with policy.held():
            await policy.load_full(models[2], 2)
        await policy.use(2)
        return await asyncio.gather(*under_way)

    turns = loop.run(swap_in_flight())
    mixed = [(prompt, turn) for prompt, turn in zip(prompts, turns, strict=True) if set(turn.versions) == {0, 2}]
    assert mixed
    for prompt, turn in mixed:
        before = turn.versions.count(0)
        assert turn.versions == [0] * before + [2] * (len(turn.ids) - before)
        assert_close(turn.log_probs[:before], sampled_log_probs(models[0], prompt, turn.ids)[:before])
        assert_close(turn.log_probs[before:], sampled_log_probs(models[2], prompt, turn.ids)[before:])


def test_no_trajectory_token_is_sampled_between_a_swap_and_its_use(on_start, models):
    loop, policy = on_start

    async def ask_while_held():
        async with policy.held():
            await policy.load_full(models[1], 1)
            asked = asyncio.create_task(policy.generate(PROBE[:20], temperature=1.0, max_tokens=5))
            await policy.score(PROBE[:20], 1)
            waited = not asked.done() and not policy.engine.under_way
        await policy.use(1)
        return waited, await asked

    waited, sampled = loop.run(ask_while_held())
    assert waited
    assert set(sampled.versions) == {1}


def test_a_cache_filled_by_another_version_is_never_read(on_start, models):
    loop, policy = on_start
    prompt = PROBE[:280]  # more than two blocks of the prefix cache

    async def there_and_back():
        await policy.generate(prompt, temperature=1.0, max_tokens=4)
        turns = []
        for version, model in ((1, models[1]), (2, models[0])):
            async with policy.held():
                await policy.load_full(model, version)
            await policy.use(version)
            turns.append(await policy.generate(prompt, temperature=1.0, max_tokens=4))
        return turns

    first, second = loop.run(there_and_back())
    assert_close(first.log_probs, sampled_log_probs(models[1], prompt, first.ids))
    assert_close(second.log_probs, sampled_log_probs(models[0], prompt, second.ids))


def test_the_test_of_caches_can_fail(on_start, models):
    """A salt that does not name the version serves stale keys and values, when the cache is not emptied either."""
    loop, policy = on_start
    prompt = PROBE[:280]

    async def reload_behind_its_back():
        await policy.generate(prompt, temperature=1.0, max_tokens=2)
        await policy.engine.vllm.collective_rpc("reload_weights", kwargs={"weights_path": str(models[1])})
        return await policy.generate(prompt, temperature=1.0, max_tokens=2)

    stale = loop.run(reload_behind_its_back())
    expected = sampled_log_probs(models[1], prompt, stale.ids)
    assert max(abs(a - b) for a, b in zip(stale.log_probs, expected, strict=True)) > 0.05


def test_adapters_are_swapped_without_a_pause_and_are_exactly_those(on_start, adapters):
    loop, policy = on_start

    async def swap(version, folder):
        await policy.load_adapter(folder, version)
        scores = (await policy.score(PROBE, version))[0].log_probs
        await policy.use(version)
        return scores, await policy.generate(PROBE[:280], temperature=1.0, max_tokens=20)

    for version, (folder, model) in enumerate(adapters, start=1):
        scores, turn = loop.run(swap(version, folder))
        assert_close(scores, reference_log_probs(model, PROBE), 2e-5)
        assert_close(turn.log_probs, sampled_log_probs(model, PROBE[:280], turn.ids), 2e-5)
        assert set(turn.versions) == {version}


def test_a_probe_amid_turns_under_adapters_has_the_engine_for_itself(on_start, adapters):
    """In one batch with others its prompt log-probs end vLLM 0.32's engine."""
    loop, policy = on_start

    async def probe_amid_turns():
        await policy.load_adapter(adapters[0][0], 1)
        await policy.use(1)
        lengths = range(20, 60, 5)
        turns = [policy.generate(PROBE[:length], temperature=1.0, max_tokens=60) for length in lengths]
        under_way = [asyncio.create_task(turn) for turn in turns]
        await until(lambda: policy.engine.under_way == len(under_way))
        await policy.load_adapter(adapters[1][0], 2)
        scores = (await policy.score(PROBE, 2))[0].log_probs
        return scores, await asyncio.gather(*under_way)

    scores, turns = loop.run(probe_amid_turns())
    assert_close(scores, reference_log_probs(adapters[1][1], PROBE), 2e-5)
    for length, turn in zip(range(20, 60, 5), turns, strict=True):
        assert set(turn.versions) == {1}
        assert_close(turn.log_probs, sampled_log_probs(adapters[0][1], PROBE[:length], turn.ids), 2e-5)


def test_an_adapter_that_nobody_uses_is_removed(on_start, adapters):
    loop, policy = on_start

    async def two_versions():
        await policy.load_adapter(adapters[0][0], 1)
        await policy.use(1)
        await policy.load_adapter(adapters[1][0], 2)
        await policy.use(2)
        return await policy.engine.vllm.list_loras()

    assert len(loop.run(two_versions())) == 1
    assert policy.loaded() == {0, 2}


def test_an_episode_keeps_the_adapter_it_began_with_when_versions_change_between_episodes(on_start, adapters):
    loop, policy = on_start
    policy.mode = "between_episodes"

    async def episode_across_a_swap():
        await policy.load_adapter(adapters[0][0], 1)
        await policy.use(1)
        async with policy.episode() as pinned:
            await policy.load_adapter(adapters[1][0], 2)
            await policy.use(2)
            turn = await policy.generate(PROBE[:50], temperature=1.0, max_tokens=10, pinned=pinned)
            during = policy.loaded()
        async with policy.episode() as later:
            return turn, during, later

    turn, during, later = loop.run(episode_across_a_swap())
    assert_close(turn.log_probs, sampled_log_probs(adapters[0][1], PROBE[:50], turn.ids), 2e-5)
    assert (set(turn.versions), during, later) == ({1}, {0, 1, 2}, 2)
    assert policy.loaded() == {0, 2}


def test_in_flight_adapters_change_amid_a_turn(on_start, adapters):
    loop, policy = on_start

    async def swap_in_flight():
        await policy.load_adapter(adapters[0][0], 1)
        await policy.use(1)
        under_way = asyncio.create_task(policy.generate(PROBE[:50], temperature=1.0, max_tokens=500))
        await until(lambda: policy.engine.under_way)
        # a short turn that comes back says that the engine has worked on the long one meanwhile
        await policy.generate(PROBE[:20], temperature=1.0, max_tokens=10)
        await policy.load_adapter(adapters[1][0], 2)
        await policy.score(PROBE[:50], 2)
        await policy.use(2)
        return await under_way

    turn = loop.run(swap_in_flight())
    before = turn.versions.count(1)
    assert turn.versions == [1] * before + [2] * (len(turn.ids) - before)
    assert_close(turn.log_probs[:before], sampled_log_probs(adapters[0][1], PROBE[:50], turn.ids)[:before], 1e-4)
    assert_close(turn.log_probs[before:], sampled_log_probs(adapters[1][1], PROBE[:50], turn.ids)[before:], 1e-4)


def test_between_turns_a_swap_waits_for_the_turns_under_way(on_start, models):
    loop, policy = on_start
    policy.mode = "between_turns"

    async def swap():
        under_way = asyncio.create_task(policy.generate(PROBE[:50], temperature=0.0, max_tokens=60))
        await until(lambda: policy.engine.under_way)
        async with policy.held():
            ended = under_way.done() or not policy.engine.under_way
            await policy.load_full(models[1], 1)
        await policy.use(1)
        return ended, await under_way, await policy.generate(PROBE[:50], temperature=0.0, max_tokens=5)

    ended, before, after = loop.run(swap())
    assert ended
    assert (set(before.versions), set(after.versions)) == ({0}, {1})


def test_between_episodes_a_swap_of_all_weights_waits_for_the_episodes_under_way(on_start, models):
    loop, policy = on_start
    policy.mode = "between_episodes"

    async def swap():
        async def episode():
            versions = set()
            async with policy.episode() as pinned:
                for _ in range(3):
                    turn = await policy.generate(PROBE[:50], temperature=0.0, max_tokens=5, pinned=pinned)
                    versions |= set(turn.versions)
            return versions

        under_way = asyncio.create_task(episode())
        await until(lambda: policy.engine.under_way)
        async with policy.held():
            later = asyncio.create_task(episode())
            await policy.load_full(models[1], 1)
        await policy.use(1)
        return await under_way, await later

    assert loop.run(swap()) == ({0}, {1})


def test_a_cancelled_turn_ends_in_the_engine_too(on_start):
    loop, policy = on_start

    async def cancel():
        asked = asyncio.create_task(policy.generate(PROBE[:20], temperature=1.0, max_tokens=900))
        await until(lambda: policy.engine.under_way)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        return policy.engine.vllm.output_processor.get_num_unfinished_requests(), policy.engine.under_way

    assert loop.run(cancel()) == (0, 0)


def test_a_request_that_the_engine_cannot_take_costs_that_request_alone(on_start):
    loop, policy = on_start
    with pytest.raises(RequestFailure, match="the engine refused a request"):
        loop.run(policy.generate([5] * 2000, temperature=1.0, max_tokens=5))
    assert len(loop.run(policy.generate([5] * 20, temperature=0.0, max_tokens=5)).ids) >= 1


def test_a_folder_that_is_no_adapter_is_refused_and_the_engine_lives(on_start, tmp_path):
    loop, policy = on_start
    with pytest.raises(RunError, match="refuses this adapter"):
        loop.run(policy.load_adapter(tmp_path, 5))
    assert len(loop.run(policy.generate([5] * 20, temperature=0.0, max_tokens=5)).ids) >= 1


def test_the_development_switches_of_vllm_are_off(engine):
    assert "VLLM_SERVER_DEV_MODE" not in os.environ
    assert "VLLM_ALLOW_INSECURE_SERIALIZATION" not in os.environ
