"""Versions on an actor's machine: verified, shared, resumed, kept as long as somebody uses them."""

import asyncio

import pytest
from reloading import Setting, publish_version

from common.checkpoint import MANIFEST, folder_of
from common.errors import RunError


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "manifest.json"])
def test_a_manifest_that_names_a_file_outside_of_its_folder_is_refused(tmp_path, name):
    setting = Setting(tmp_path)

    async def work():
        await setting.begin()
        publish_version(setting.published, 1)
        file = folder_of(setting.published, 1) / MANIFEST
        file.write_text(file.read_text().replace('"config.json"', f'"{name}"'))
        with pytest.raises(RunError, match="outside of its folder"):
            await setting.versions.fetch(1)

    asyncio.run(work())


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
