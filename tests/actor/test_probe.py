"""The real engine in two copies and the real reloader: what the probe catches, and turns that keep their cache."""

import asyncio
import shutil
from functools import partial

import pytest
from event_loop import Loop
from reloading import RUN, FolderFiles
from safetensors.torch import load_file, save_file
from tiny_model import STOP, VOCABULARY, make_model, reference_log_probs

from actor.config import EngineConfig, ReloadConfig
from actor.downloads import Downloads
from actor.policy import Policy
from actor.probe import ProbeDiffers, judge
from actor.reload import Reloader
from actor.version_folders import VersionFolders
from actor.versions import Versions
from common.checkpoint import Manifest, Probe, publish
from common.errors import RunError

# warnings of vLLM's imports, and of the process that it forks
pytestmark = pytest.mark.filterwarnings("ignore")

PROBE = [(7 * i + 3) % VOCABULARY for i in range(64)]
PROMPTS = [[5 + i, *((11 * j + i) % VOCABULARY for j in range(140))] for i in range(6)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [make_model(folder / f"m{seed}", seed) for seed in range(3)]


@pytest.fixture(scope="module")
def engine(models):
    """Two engine workers, each with all weights; the gate is shut."""
    loop = Loop()
    config = EngineConfig(dtype="float32", context_tokens=1024, kv_cache_megabytes=32, data_parallel=2)
    start = Policy.start(models[0], 0, config, mode="in_flight_kept_cache", slots=8, seed=1, stop_ids=[STOP])
    policy = loop.run(start)
    yield loop, policy
    loop.run(asyncio.to_thread(policy.stop))
    loop.close()


class Setting:
    """A learner's folder of versions, and an actor's reloader on the real engine."""

    def __init__(self, folder, policy, models, *, attempts=3):
        self.published, self.policy, self.models = folder / "published", policy, models
        self.files = FolderFiles(self.published)
        self.versions = Versions(Downloads(VersionFolders(folder / "own", RUN), self.files), RUN)
        self.reports = []
        config = ReloadConfig(attempts=attempts, retry_seconds=0.001, mode=policy.mode)
        self.reloader = Reloader(self.versions, policy, config, self.report)

    async def report(self, message):
        self.reports.append(message)

    def publish(self, version, model, *, weights=None):
        """The probe is of `model`; the files, whose digests are right, are `weights`, if given."""
        probe = Probe(tokens=tuple(PROBE), log_probs=tuple(reference_log_probs(model, PROBE)))
        manifest = Manifest(run_id=RUN, policy_version=version, kind="full", step=version, files={}, probe=probe)
        copy = partial(shutil.copytree, weights or model, dirs_exist_ok=True)
        self.versions.heard(version, publish(self.published, manifest, copy))

    async def begin(self):
        """On version 0, the first model, whatever was loaded before."""
        self.publish(0, self.models[0])
        folder, manifest = await self.versions.fetch(0)
        async with self.policy.held():
            await self.policy.load_full(folder, 0)
        await self.reloader.begin(folder, manifest)


@pytest.fixture
def setting(engine, models, tmp_path):
    loop, policy = engine
    policy.mode = "in_flight_kept_cache"
    made = Setting(tmp_path, policy, models)
    loop.run(made.begin())
    made.run = loop.run
    return made


@pytest.fixture(scope="module")
def altered(models, tmp_path_factory):
    """The second model with one matrix altered a little: what a defect of a loader or of memory would leave."""
    folder = tmp_path_factory.mktemp("altered") / "m"
    shutil.copytree(models[1], folder)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name] * 1.05
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


async def engine_works(policy, tokens=10):
    """A short turn that comes back says that the engine has worked on the others meanwhile."""
    await policy.generate(PROMPTS[0][:20], temperature=1.0, max_tokens=tokens)


async def turns_under_way(policy, max_tokens=150):
    asked = [asyncio.create_task(policy.generate(prompt, temperature=1.0, max_tokens=max_tokens)) for prompt in PROMPTS]
    while policy.engine.under_way < len(PROMPTS):  # noqa: ASYNC110 - what is waited for is the engine's
        await asyncio.sleep(0)
    await engine_works(policy)
    return asked


def difference(found, expected):
    return max((abs(a - b) for a, b in zip(found, expected, strict=True)), default=0.0)


def of_versions(turn, prompt, model, version):
    """Log-probs that a turn recorded for its tokens of a version, and what a forward pass gives for them."""
    expected = reference_log_probs(model, [*prompt, *turn.ids])[len(prompt) - 1 :]
    mine = [i for i, one in enumerate(turn.versions) if one == version]
    return [turn.log_probs[i] for i in mine], [expected[i] for i in mine]


def test_a_turn_that_keeps_its_cache_goes_on_and_every_token_says_which_version_sampled_it(setting, models):
    policy = setting.policy

    async def swap():
        asked = await turns_under_way(policy)
        setting.publish(1, models[1])
        await setting.reloader.catch_up()
        return await asyncio.gather(*asked)

    turns = setting.run(swap())
    crossed = [(turn, prompt) for turn, prompt in zip(turns, PROMPTS, strict=True) if 1 in turn.versions]
    assert crossed
    for turn, prompt in crossed:
        assert turn.kept_cache
        before = turn.versions.count(0)
        assert turn.versions == [0] * before + [1] * (len(turn.ids) - before)
        assert difference(*of_versions(turn, prompt, models[0], 0)) < 1e-5
    # the keys and values before are the old version's: tokens after are of no version's own distribution
    assert max(difference(*of_versions(turn, prompt, models[1], 1)) for turn, prompt in crossed) > 0.01
    assert not any(turn.kept_cache for turn in turns if 1 not in turn.versions)
    assert setting.reports[-1].accepted


def test_a_turn_after_the_swap_reads_no_keys_and_values_of_the_version_before(setting, models):
    policy = setting.policy

    async def swap():
        asked = await turns_under_way(policy)
        setting.publish(1, models[1])
        await setting.reloader.catch_up()
        later = [await policy.generate(prompt, temperature=1.0, max_tokens=5) for prompt in PROMPTS]
        await asyncio.gather(*asked)
        return later

    for turn, prompt in zip(setting.run(swap()), PROMPTS, strict=True):
        assert set(turn.versions) == {1}
        assert not turn.kept_cache
        assert difference(*of_versions(turn, prompt, models[1], 1)) < 1e-5


def test_tokens_of_a_refused_version_are_discarded_and_the_turns_go_on_with_the_one_before(setting, models, altered):
    """Nothing that the altered weights sampled gets out, though the engine samples with them until the verdict."""
    policy = setting.policy
    scored = policy.score

    async def score_late(ids, version):
        scores = await scored(ids, version)
        if version == 1:
            # turns go on, and some end, while the verdict is due
            while setting.ended_unjudged == 0:  # noqa: ASYNC110 - what is waited for is the engine's
                await asyncio.sleep(0)
        return scores

    async def swap():
        setting.ended_unjudged = 0
        counted = policy._count

        async def count(sampled, answer):
            setting.ended_unjudged += policy._unjudged in answer.loadings
            return await counted(sampled, answer)

        policy._count, policy.score = count, score_late
        try:
            asked = await turns_under_way(policy, max_tokens=120)
            setting.publish(1, models[1], weights=altered)
            await setting.reloader.reload(1)
            return await asyncio.gather(*asked)
        finally:
            del policy._count, policy.score

    turns = setting.run(swap())
    assert setting.ended_unjudged
    report = setting.reports[-1]
    assert (report.policy_version, report.accepted) == (1, False)
    assert report.reason.startswith("probe differs by")
    assert report.probe_difference > 1e-3
    for turn, prompt in zip(turns, PROMPTS, strict=True):
        assert set(turn.versions) == {0}
        assert not turn.kept_cache
        assert difference(*of_versions(turn, prompt, models[0], 0)) < 1e-5


def test_turns_go_on_with_the_version_before_while_the_next_is_fetched(setting, models, monkeypatch):
    policy, go_on = setting.policy, asyncio.Event()
    fetch_file = setting.files.fetch_file

    async def fetch_late(*arguments):
        await go_on.wait()
        return await fetch_file(*arguments)

    monkeypatch.setattr(setting.files, "fetch_file", fetch_late)

    async def work():
        setting.publish(1, models[1])
        reloading = asyncio.create_task(setting.reloader.catch_up())
        turns = [await policy.generate(prompt, temperature=1.0, max_tokens=20) for prompt in PROMPTS]
        waited = not reloading.done()
        go_on.set()
        await reloading
        return waited, turns, await policy.generate(PROMPTS[0], temperature=1.0, max_tokens=5)

    waited, turns, later = setting.run(work())
    assert waited
    assert {version for turn in turns for version in turn.versions} == {0}
    assert set(later.versions) == {1}


def test_an_adapter_is_refused_where_requests_keep_their_cache(setting, tmp_path):
    """Known at the first one, when the configuration did not say that adapters would come."""
    with pytest.raises(RunError, match=r"a request cannot change its adapter: .* use in_flight"):
        setting.run(setting.policy.load_adapter(tmp_path, 1))


@pytest.mark.parametrize("mode", ["in_flight", "between_turns"])
def test_altered_weights_with_right_digests_are_refused_again_and_again_until_the_actor_stops(
    setting, models, altered, mode
):
    setting.policy.mode = mode

    async def work():
        setting.publish(1, models[1], weights=altered)
        await setting.reloader.catch_up()

    with pytest.raises(RunError, match=r"policy version 1 was refused 3 times, last: probe differs by"):
        setting.run(work())
    assert [report.accepted for report in setting.reports] == [False] * 3
    assert setting.policy.version == 0
    turn = setting.run(setting.policy.generate(PROMPTS[0], temperature=1.0, max_tokens=10))
    assert difference(*of_versions(turn, PROMPTS[0], models[0], 0)) < 1e-5


def test_one_engine_worker_with_other_weights_is_found_and_named(setting, models, monkeypatch):
    policy = setting.policy
    load_full = policy.engine.load_full

    async def load_on_one_worker_alone(folder, version, *, keep=False):
        seconds = await load_full(folder, version, keep=keep)
        core = policy.engine.vllm.engine_core
        if version == 1:
            how = ("reload_weights", None, (), {"weights_path": str(models[0])})
            await core._call_utility_async("collective_rpc", *how, engine=core.core_engines[1])
        return seconds

    monkeypatch.setattr(policy.engine, "load_full", load_on_one_worker_alone)

    async def work():
        setting.publish(1, models[1])
        await setting.reloader.reload(1)

    setting.run(work())
    assert setting.reports[-1].reason.endswith("on engine worker 1")
    assert setting.policy.version == 0


def test_a_prefix_cache_that_serves_the_version_before_is_found(setting, models, monkeypatch):
    """The salt is held fixed, and a kept cache is not emptied."""
    policy = setting.policy
    monkeypatch.setattr(policy.engine, "_salt", lambda _: "fixed")
    monkeypatch.setattr(setting.reloader, "_config", ReloadConfig(attempts=1))

    async def work():
        async with policy.held():
            await policy.load_full(models[0], 0)
            await policy.score(PROBE, 0)
        await policy.use(0)
        asked = await turns_under_way(policy, max_tokens=800)
        setting.publish(1, models[1])
        try:
            await setting.reloader.catch_up()
        finally:
            for turn in asked:
                turn.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    with pytest.raises(RunError, match="version 1 was refused 1 times, last: the prefix cache held 128 of the probe's"):
        setting.run(work())
    assert setting.policy.version == 0


def test_a_prefix_cache_that_does_not_say_what_it_serves_is_found_by_the_log_probs(setting, models, monkeypatch):
    policy, engine = setting.policy, setting.policy.engine
    answer = engine._answer

    async def answer_without_a_word(*arguments, **more):
        output = await answer(*arguments, **more)
        output.num_cached_tokens = 0
        return output

    async def verdict():
        async with policy.held():
            await policy.load_full(models[0], 0)
            before = await policy.score(PROBE, 0)
            await engine.vllm.collective_rpc("reload_weights", kwargs={"weights_path": str(models[1])})
            monkeypatch.setattr(engine, "_answer", answer_without_a_word)
            return before, await policy.score(PROBE, 0)

    before, after = setting.run(verdict())
    probe = Probe(tokens=tuple(PROBE), log_probs=tuple(reference_log_probs(models[1], PROBE)))
    with pytest.raises(ProbeDiffers, match="nats"):
        judge(after, probe, 1e-3)
    assert judge(before, probe.model_copy(update={"log_probs": before[1].log_probs}), 1e-3) < 1e-4


def test_tied_embeddings_which_the_cpu_engine_does_not_reload_are_refused(tmp_path):
    """The packed output matrix keeps the old weights, without a word."""
    models = [make_model(tmp_path / f"m{seed}", seed, tied=True) for seed in range(2)]
    loop = Loop()

    async def work():
        config = EngineConfig(dtype="float32", context_tokens=256, kv_cache_megabytes=32)
        policy = await Policy.start(models[0], 0, config, mode="in_flight", slots=4, seed=1, stop_ids=[STOP])
        try:
            setting = Setting(tmp_path, policy, models)
            setting.publish(0, models[0])
            await setting.reloader.begin(*await setting.versions.fetch(0))
            setting.publish(1, models[1])
            await setting.reloader.reload(1)
            return setting.reports[-1], policy.version
        finally:
            await asyncio.to_thread(policy.stop)

    try:
        report, version = loop.run(work())
    finally:
        loop.close()
    assert (report.accepted, version) == (False, 0)
    assert report.probe_difference > 0.1
