import asyncio
import shutil

import pytest
from reloading import RUN, Setting, publish_version

from actor.probe import NOT_PROBED
from common.checkpoint import folder_of
from common.errors import RunError
from common.messages import ReloadReport


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
    assert [folder.joinpath("model.safetensors").read_bytes() for folder in setting.there(1)] == [b"weights 1" * 1000]


def test_a_version_whose_probe_differs_is_refused_reported_and_the_one_before_brought_back(tmp_path):
    setting = Setting(tmp_path, wrong={1: 1})

    async def work():
        await setting.begin()
        setting.publish(1)
        await setting.reloader.reload(1)

    asyncio.run(work())
    assert setting.policy.events == [("full", 1), ("refuse", 1), ("full", 0), ("use", 0)]
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
    assert [folder.joinpath("model.safetensors").read_bytes() for folder in setting.there(1)] == [b"other weights"]


def test_folders_of_versions_that_nobody_uses_are_removed(tmp_path):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        (setting.own / RUN / ".fetch-v000009-00112233aabbccdd").mkdir()
        for version in (1, 2):
            setting.publish(version)
            await setting.reloader.catch_up()

    asyncio.run(work())
    assert [folder.name[:7] for folder in (setting.own / RUN).iterdir()] == ["v000002"]


def test_an_adapter_is_loaded_beside_its_base_and_the_base_is_kept(tmp_path):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        setting.publish(1, kind="adapter", base_version=0)
        await setting.reloader.catch_up()

    asyncio.run(work())
    assert setting.policy.events == [("adapter", 1), ("use", 1)]
    assert sorted(folder.name[:7] for folder in (setting.own / RUN).iterdir()) == ["v000000", "v000001"]


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
