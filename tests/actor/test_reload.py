import asyncio
import shutil
from contextlib import asynccontextmanager

import pytest

from actor.config import ReloadConfig
from actor.reload import NOT_PROBED, Reloader
from actor.versions import Versions
from common.checkpoint import MANIFEST, Manifest, Probe, folder_of, publish
from common.errors import RunError
from common.messages import FileChunk, ReloadReport

RUN = "run"


def probe_of(version):
    return Probe(tokens=(1, 2, 3), log_probs=(-1.0 * version, -2.0 * version))


def publish_version(parent, version, *, kind="full", base_version=None, run_id=RUN, content=None):
    manifest = Manifest(
        run_id=run_id,
        policy_version=version,
        kind=kind,
        base_version=base_version,
        step=version,
        files={},
        probe=probe_of(version),
    )

    def write(folder):
        (folder / "model.safetensors").write_bytes(content or f"weights {version}".encode() * 1000)
        (folder / "config.json").write_text("{}")

    return publish(parent, manifest, write)


class FolderFiles:
    """The learner's files, read from its folder. `spoil` names versions of which one fetch comes damaged."""

    def __init__(self, published, spoil=()):
        self.published, self.spoil = published, list(spoil)
        self.fetched = []

    async def fetch(self, version, name, offset, length):
        await asyncio.sleep(0)  # as on a network: others get their turn
        file = folder_of(self.published, version) / name
        if not file.exists():
            chunk = {"size": 0, "data": b"", "error": f"version {version} is no longer kept"}
        else:
            content = file.read_bytes()
            chunk = {"size": len(content), "data": content[offset : offset + length]}
        return FileChunk(policy_version=version, name=name, offset=offset, **chunk)

    async def fetch_file(self, version, name, size, target):
        file = folder_of(self.published, version) / name
        if not file.exists():
            raise RunError(f"version {version} is no longer kept")
        self.fetched.append((version, name))
        content = file.read_bytes()
        if version in self.spoil and name == "model.safetensors":
            self.spoil.remove(version)
            content = content[:-1] + b"!"
        target.write_bytes(content)


class ScriptedPolicy:
    """Says of each version what the learner says, but for those in `wrong`, which are off as often as it says there."""

    def __init__(self, version=0, wrong=None):
        self.version, self.wrong = version, wrong or {}
        self.full, self.adapters = version, set()
        self.events = []
        self.is_held = False

    @asynccontextmanager
    async def held(self):
        self.is_held = True
        yield

    async def load_full(self, folder, version):
        assert self.is_held or self.version == version
        assert (folder / "model.safetensors").exists()
        self.events.append(("full", version))
        self.full = version
        return 0.1

    async def load_adapter(self, folder, version):
        self.events.append(("adapter", version))
        self.adapters.add(version)
        return 0.1

    async def score(self, ids, version):
        assert version == self.full or version in self.adapters
        off = 0.7 if self.wrong.get(version, 0) > 0 else 1e-6
        self.wrong[version] = self.wrong.get(version, 0) - 1
        return [log_prob + off for log_prob in probe_of(version).log_probs]

    async def use(self, version):
        self.events.append(("use", version))
        self.version, self.is_held = version, False

    async def forget(self, version):
        self.events.append(("forget", version))
        self.adapters.discard(version)

    def loaded(self):
        return {self.full, self.version, *self.adapters}


class Setting:
    """A learner's folder, an actor's folder, a policy on version 0, and what the actor reports."""

    def __init__(self, folder, *, wrong=None, spoil=(), attempts=3):
        self.published, self.own = folder / "published", folder / "own"
        self.files = FolderFiles(self.published, spoil)
        self.versions = Versions(self.own, RUN, self.files)
        self.policy = ScriptedPolicy(wrong=wrong)
        self.reports = []
        config = ReloadConfig(attempts=attempts, retry_seconds=0.001)
        self.reloader = Reloader(self.versions, self.policy, config, self.report)
        self.publish(0)

    async def report(self, message):
        self.reports.append(message)

    def publish(self, version, **how):
        digest = publish_version(self.published, version, **how)
        self.versions.heard(version, digest)
        return digest

    async def begin(self):
        await self.reloader.begin(*await self.versions.fetch(0))
        self.policy.events.clear()


def test_a_new_version_is_fetched_probed_and_used(tmp_path):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        setting.publish(1)
        await setting.reloader.catch_up()

    asyncio.run(work())
    assert setting.policy.events == [("full", 1), ("use", 1)]
    report = setting.reports[-1]
    assert (report.policy_version, report.accepted) == (1, True)
    assert report.probe_difference == pytest.approx(1e-6)
    assert (folder_of(setting.own, 1) / "model.safetensors").read_bytes() == b"weights 1" * 1000


def test_a_version_whose_probe_differs_is_refused_reported_and_the_one_before_brought_back(tmp_path):
    setting = Setting(tmp_path, wrong={1: 1})

    async def work():
        await setting.begin()
        setting.publish(1)
        await setting.reloader.reload(1)

    asyncio.run(work())
    assert setting.policy.events == [("full", 1), ("full", 0), ("use", 0)]
    assert setting.policy.version == 0
    report = setting.reports[-1]
    assert (report.accepted, report.reason) == (False, "probe differs by 0.7 nats")
    assert report.probe_difference == pytest.approx(0.7)


def test_a_refused_version_is_fetched_afresh_and_tried_again(tmp_path):
    setting = Setting(tmp_path, wrong={1: 2})

    async def work():
        await setting.begin()
        setting.publish(1)
        await setting.reloader.catch_up()

    asyncio.run(work())
    assert setting.policy.version == 1
    assert [report.accepted for report in setting.reports] == [False, False, True]
    assert setting.files.fetched.count((1, "model.safetensors")) == 3


def test_after_so_many_refusals_the_actor_stops_and_says_why(tmp_path):
    setting = Setting(tmp_path, wrong={1: 99}, attempts=2)

    async def work():
        await setting.begin()
        setting.publish(1)
        await setting.reloader.catch_up()

    with pytest.raises(RunError, match=r"policy version 1 was refused 2 times, last: probe differs by 0\.7 nats"):
        asyncio.run(work())
    assert setting.policy.version == 0


def test_a_file_that_arrives_damaged_never_reaches_the_engine(tmp_path):
    setting = Setting(tmp_path, spoil=[1])

    async def work():
        await setting.begin()
        setting.publish(1)
        await setting.reloader.catch_up()

    asyncio.run(work())
    assert setting.policy.events == [("full", 1), ("use", 1)]
    assert [report.accepted for report in setting.reports] == [False, True]
    assert setting.reports[0].probe_difference == NOT_PROBED
    assert "sha256 differs" in setting.reports[0].reason


def test_a_manifest_of_another_digest_than_announced_is_refused(tmp_path):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        publish_version(setting.published, 1)
        setting.versions.heard(1, "00" * 32)
        await setting.reloader.reload(1)

    asyncio.run(work())
    assert setting.policy.events == []
    assert "not the one announced" in setting.reports[-1].reason


def test_a_manifest_of_another_run_is_refused(tmp_path):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        setting.publish(1, run_id="another")
        await setting.reloader.reload(1)

    asyncio.run(work())
    assert "run another" in setting.reports[-1].reason


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "manifest.json"])
def test_a_manifest_that_names_a_file_outside_of_its_folder_is_refused(tmp_path, name):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        publish_version(setting.published, 1)
        file = folder_of(setting.published, 1) / MANIFEST
        file.write_text(file.read_text().replace('"config.json"', f'"{name}"'))
        with pytest.raises(RunError, match="outside of its folder"):
            await setting.versions.fetch(1, expected=False)

    asyncio.run(work())


def test_only_the_newest_of_several_versions_is_fetched(tmp_path):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        for version in (1, 2, 3):
            setting.publish(version)
        await setting.reloader.catch_up()

    asyncio.run(work())
    assert {version for version, _ in setting.files.fetched} == {0, 3}
    assert setting.policy.version == 3


def test_a_version_that_is_gone_because_a_newer_one_came_is_no_failure(tmp_path):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        setting.publish(1)
        shutil.rmtree(folder_of(setting.published, 1))
        reloading = asyncio.create_task(setting.reloader.reload(1))
        await asyncio.sleep(0)
        setting.publish(2)
        await reloading
        await setting.reloader.catch_up()

    asyncio.run(work())
    assert setting.policy.version == 2
    assert [(report.policy_version, report.accepted) for report in setting.reports] == [(2, True)]


def test_a_version_published_anew_with_other_weights_is_loaded_again(tmp_path):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        setting.publish(1)
        await setting.reloader.catch_up()
        setting.publish(1, content=b"other weights")
        await setting.reloader.catch_up()

    asyncio.run(work())
    assert setting.policy.events == [("full", 1), ("use", 1), ("full", 1), ("use", 1)]
    assert (folder_of(setting.own, 1) / "model.safetensors").read_bytes() == b"other weights"


def test_folders_of_versions_that_nobody_uses_are_removed(tmp_path):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        (setting.own / ".fetch-v000009").mkdir()
        for version in (1, 2):
            setting.publish(version)
            await setting.reloader.catch_up()

    asyncio.run(work())
    assert [folder.name for folder in setting.own.iterdir()] == ["v000002"]


def test_what_an_earlier_life_fetched_is_used_when_it_is_whole_and_fetched_again_when_not(tmp_path):
    setting = Setting(tmp_path)

    async def fetch_twice(damage):
        folder, _ = await setting.versions.fetch(0)
        if damage:
            (folder / "config.json").write_text("damaged")
        before = len(setting.files.fetched)
        await setting.versions.fetch(0)
        return len(setting.files.fetched) - before

    assert asyncio.run(fetch_twice(damage=False)) == 0
    assert asyncio.run(fetch_twice(damage=True)) == 2


def test_an_adapter_is_loaded_beside_its_base_and_the_base_is_kept(tmp_path):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        setting.publish(1, kind="adapter", base_version=0)
        await setting.reloader.catch_up()

    asyncio.run(work())
    assert setting.policy.events == [("adapter", 1), ("use", 1)]
    assert sorted(folder.name for folder in setting.own.iterdir()) == ["v000000", "v000001"]


def test_an_adapter_whose_probe_differs_is_removed_and_the_one_before_samples_on(tmp_path):
    setting = Setting(tmp_path, wrong={1: 1})

    async def work():
        await setting.begin()
        setting.publish(1, kind="adapter", base_version=0)
        await setting.reloader.reload(1)

    asyncio.run(work())
    assert setting.policy.events == [("adapter", 1), ("forget", 1)]
    assert (setting.policy.version, setting.reports[-1].accepted) == (0, False)


def test_an_adapter_on_another_base_is_refused(tmp_path):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        setting.publish(5, kind="adapter", base_version=4)
        await setting.reloader.reload(5)

    asyncio.run(work())
    assert "an adapter on 4, not on 0" in setting.reports[-1].reason


def test_the_first_version_is_probed_before_it_is_used_and_loaded_again_when_it_differs(tmp_path):
    setting = Setting(tmp_path, wrong={0: 1})
    setting.policy.is_held = True

    async def work():
        await setting.reloader.begin(*await setting.versions.fetch(0))

    asyncio.run(work())
    assert setting.policy.events == [("full", 0), ("use", 0)]
    assert isinstance(setting.reports[0], ReloadReport)


def test_an_episode_waits_for_the_version_that_its_lease_needs(tmp_path):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        waiting = asyncio.create_task(setting.reloader.at_least(1))
        await asyncio.sleep(0)
        before = waiting.done()
        setting.publish(1)
        await setting.reloader.catch_up()
        await waiting
        return before

    assert asyncio.run(work()) is False
