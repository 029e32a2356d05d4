"""Versions on an actor's machine: verified, shared, resumed, kept as long as somebody uses them."""

import asyncio
import errno
import os
from types import SimpleNamespace

import pytest
from reloading import RUN, FolderFiles, Setting, publish_version
from structlog.testing import capture_logs

import actor.downloads
import actor.verification
from actor.downloads import Downloads
from actor.shared_folder import SharedFolder
from actor.version_folders import VersionFolders
from actor.versions import Versions
from common.checkpoint import MANIFEST, folder_of
from common.errors import RunError, UsageError


class HeldFiles(FolderFiles):
    """Gives nothing of the weights until told to go on."""

    def __init__(self, published):
        super().__init__(published)
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def fetch_file(self, version, name, size, target):
        self.asked.set()
        await self.go_on.wait()
        return await super().fetch_file(version, name, size, target)


class FullDisk(FolderFiles):
    """The disk is full once, amid the weights."""

    def __init__(self, published):
        super().__init__(published)
        self.is_full = True

    async def fetch_file(self, version, name, size, target):
        if self.is_full and name == "model.safetensors":
            self.is_full = False
            target.write_bytes(b"weigh")
            raise OSError(errno.ENOSPC, "No space left on device")
        return await super().fetch_file(version, name, size, target)


def flip(file, index):
    content = bytearray(file.read_bytes())
    content[index] ^= 1
    file.write_bytes(content)


async def lines(logs, count):
    """Until the log has so many."""
    while len(logs) < count:  # noqa: ASYNC110 - a log has nothing to await
        await asyncio.sleep(0.01)


def actor_on(folder, files, run_id=RUN):
    """What another actor of the machine has: locks do not know processes, only who opened."""
    return Versions(Downloads(VersionFolders(folder, run_id), files), run_id)


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


def test_actors_of_a_machine_share_one_download(tmp_path):
    digest = publish_version(tmp_path / "published", 1)

    async def work():
        files = [HeldFiles(tmp_path / "published") for _ in range(3)]
        actors = [actor_on(tmp_path / "own", one) for one in files]
        with capture_logs() as logs:
            fetching = [asyncio.create_task(one.fetch(1, digest)) for one in actors]
            await files[0].asked.wait()
            await lines(logs, 2)
            files[0].go_on.set()
            folders = {(await one)[0] for one in fetching}
        return folders, [len(one.fetched) for one in files]

    folders, fetched = asyncio.run(work())
    assert len(folders) == 1
    assert fetched == [2, 0, 0]


def test_a_download_that_was_given_up_is_gone_on_with_by_the_next_actor(tmp_path):
    digest = publish_version(tmp_path / "published", 1)

    async def work():
        first = HeldFiles(tmp_path / "published")
        fetching = asyncio.create_task(actor_on(tmp_path / "own", first).fetch(1, digest))
        await first.asked.wait()
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
        drafts = [path.name for path in (tmp_path / "own" / RUN).iterdir()]
        second = FolderFiles(tmp_path / "published")
        second.fetch = None  # the manifest is there already
        folder, _ = await actor_on(tmp_path / "own", second).fetch(1, digest)
        return drafts, folder, [path.name for path in (tmp_path / "own" / RUN).iterdir()]

    drafts, folder, after = asyncio.run(work())
    assert drafts == [f".fetch-{folder.name}"]
    assert after == [folder.name]


def test_a_version_stays_as_long_as_an_actor_of_the_machine_uses_it(tmp_path):
    digests = [publish_version(tmp_path / "published", version) for version in (1, 2)]
    files = FolderFiles(tmp_path / "published")

    async def work():
        one, two = actor_on(tmp_path / "own", files), actor_on(tmp_path / "own", files)
        for each in (one, two):
            await each.fetch(1, digests[0])
        one.heard(2, digests[1])
        await one.fetch(2, digests[1])
        await one.keep_only({2})
        used = sorted(path.name[:7] for path in (tmp_path / "own" / RUN).iterdir())
        two.close()
        await one.keep_only({2})
        return used, sorted(path.name[:7] for path in (tmp_path / "own" / RUN).iterdir())

    assert asyncio.run(work()) == (["v000001", "v000002"], ["v000002"])


def test_what_is_being_downloaded_is_not_removed_by_others_and_what_was_given_up_is(tmp_path):
    digests = [publish_version(tmp_path / "published", version) for version in (1, 2)]

    async def work():
        slow, quick = HeldFiles(tmp_path / "published"), FolderFiles(tmp_path / "published")
        fetching = asyncio.create_task(actor_on(tmp_path / "own", slow).fetch(1, digests[0]))
        await slow.asked.wait()
        other = actor_on(tmp_path / "own", quick)
        other.heard(2, digests[1])
        await other.fetch(2, digests[1])
        await other.keep_only({2})
        under_way = sorted(path.name[:14] for path in (tmp_path / "own" / RUN).iterdir())
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
        await other.keep_only({2})
        return under_way, sorted(path.name[:14] for path in (tmp_path / "own" / RUN).iterdir())

    under_way, after = asyncio.run(work())
    assert under_way == [".fetch-v000001", f"v000002-{digests[1][:6]}"]
    assert after == [f"v000002-{digests[1][:6]}"]


def test_what_actors_of_other_runs_left_is_removed_unless_one_is_alive_and_nothing_else_is(tmp_path):
    files = FolderFiles(tmp_path / "published")
    publish_version(tmp_path / "published", 1, run_id="alive")
    (tmp_path / "own" / "dead" / "v000007-0011223344556677").mkdir(parents=True)
    (tmp_path / "own" / "mine" / "videos").mkdir(parents=True)

    async def work():
        alive = actor_on(tmp_path / "own", files, "alive")
        await alive.fetch(1)
        VersionFolders(tmp_path / "own", RUN).remove_other_runs()
        return sorted(path.name for path in (tmp_path / "own").iterdir())

    assert asyncio.run(work()) == ["alive", "mine"]
    assert (tmp_path / "own" / "mine" / "videos").is_dir()


@pytest.mark.parametrize("reboot", [False, True], ids=["untouched", "after-a-crash-of-the-machine"])
def test_files_are_hashed_once_a_machine_and_again_after_its_crash(tmp_path, monkeypatch, reboot):
    digest = publish_version(tmp_path / "published", 1)
    files = FolderFiles(tmp_path / "published")
    boot, hashed, begun = tmp_path / "boot_id", [], actor.verification.sha256_begun
    boot.write_text("first")
    monkeypatch.setattr(actor.verification, "BOOT_ID", boot)
    monkeypatch.setattr(actor.verification, "sha256_begun", lambda file: hashed.append(file.name) or begun(file))

    async def work():
        await actor_on(tmp_path / "own", files).fetch(1, digest)
        if reboot:
            boot.write_text("second")
        for _ in range(2):
            await actor_on(tmp_path / "own", files).fetch(1, digest)

    asyncio.run(work())
    assert sorted(hashed) == (["config.json", "model.safetensors"] if reboot else [])
    assert len(files.fetched) == 2


def test_a_bit_that_flips_after_the_verification_is_found_and_fetched_afresh(tmp_path):
    digest = publish_version(tmp_path / "published", 1)
    files = FolderFiles(tmp_path / "published")

    async def work():
        folder, _ = await actor_on(tmp_path / "own", files).fetch(1, digest)
        before = (folder / "model.safetensors").stat()
        flip(folder / "model.safetensors", 5)
        os.utime(folder / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))
        return (await actor_on(tmp_path / "own", files).fetch(1, digest))[0]

    folder = asyncio.run(work())
    assert (folder / "model.safetensors").read_bytes() == b"weights 1" * 1000
    assert files.fetched.count((1, "model.safetensors")) == 2


def test_a_suspect_version_that_others_use_is_hashed_again_and_one_that_nobody_uses_is_fetched_again(tmp_path):
    digest = publish_version(tmp_path / "published", 1)
    files = FolderFiles(tmp_path / "published")

    async def fetches(others):
        files.fetched.clear()
        other, own = actor_on(tmp_path / "own", files), actor_on(tmp_path / "own", files)
        await other.fetch(1, digest)
        if not others:
            other.close()
        await own.fetch(1, digest)
        files.fetched.clear()
        await own.remove(1)
        await own.fetch(1, digest)
        for each in (own, other):
            each.close()
        return len(files.fetched)

    assert asyncio.run(fetches(others=True)) == 0
    assert asyncio.run(fetches(others=False)) == 2


def test_no_room_is_said_and_waited_for_and_a_newer_version_ends_the_waiting(tmp_path, monkeypatch):
    digests = [publish_version(tmp_path / "published", version) for version in (1, 2)]
    free = [10]
    monkeypatch.setattr(actor.downloads.shutil, "disk_usage", lambda _: SimpleNamespace(free=free[0]))
    monkeypatch.setattr(actor.downloads, "LOOK_AGAIN", 0.01)

    async def work():
        own = actor_on(tmp_path / "own", FolderFiles(tmp_path / "published"))
        own.heard(1, digests[0])
        with capture_logs() as logs:
            fetching = asyncio.create_task(own.fetch(1, digests[0]))
            await lines(logs, 1)
            own.heard(2, digests[1])
            with pytest.raises(RunError, match="there was no room for it, and it is no longer the newest"):
                await fetching
            waiting = asyncio.create_task(own.fetch(2, digests[1]))
            await lines(logs, 3)
            free[0] = 1 << 30
            await waiting
        return logs

    logs = asyncio.run(work())
    told = ["no_room_for_version", "version_removed", "no_room_for_version", "version_downloaded"]
    assert [entry["event"] for entry in logs] == told, "what was given up makes room first"
    assert logs[0]["free"] == 10
    assert logs[0]["missing"] > 8000


def test_a_disk_that_fills_amid_a_download_tears_nothing_and_costs_a_wait(tmp_path, monkeypatch):
    digest = publish_version(tmp_path / "published", 1)
    monkeypatch.setattr(actor.downloads, "LOOK_AGAIN", 0.01)
    own = actor_on(tmp_path / "own", FullDisk(tmp_path / "published"))
    with capture_logs() as logs:
        folder, _ = asyncio.run(own.fetch(1, digest))
    assert [entry["event"] for entry in logs] == ["disk_full", "version_downloaded"]
    assert (folder / "model.safetensors").read_bytes() == b"weights 1" * 1000


def test_a_damaged_draft_is_removed_and_its_file_fetched_from_the_start(tmp_path):
    digest = publish_version(tmp_path / "published", 1)
    files = FolderFiles(tmp_path / "published", spoil=[1])
    draft = VersionFolders(tmp_path / "own", RUN).path(1, digest)
    content = draft.with_name(f".fetch-{draft.name}") / "files"
    content.mkdir(parents=True)
    (content / "model.safetensors").write_bytes(b"what a crash of the machine left")
    (content / MANIFEST).write_bytes(b"{}")
    folder, _ = asyncio.run(actor_on(tmp_path / "own", files).fetch(1, digest))
    assert (folder / "model.safetensors").read_bytes() == b"weights 1" * 1000
    assert files.fetched.count((1, "model.safetensors")) == 2


def test_a_shared_folder_is_read_hashed_and_never_written_to(tmp_path):
    digest = publish_version(tmp_path / "published", 1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    own = Versions(SharedFolder(tmp_path / "published"), RUN)
    folder, _ = asyncio.run(own.fetch(1, digest))
    assert folder == folder_of(tmp_path / "published", 1)
    assert own.reads == {1}
    flip(folder / "model.safetensors", 0)
    with pytest.raises(RunError, match="sha256 differs"):
        asyncio.run(own.fetch(1, digest))
    flip(folder / "model.safetensors", 0)
    asyncio.run(own.remove(1))
    asyncio.run(own.fetch(1, digest))
    asyncio.run(own.keep_only({1}))
    assert own.reads == {1}
    asyncio.run(own.keep_only(set()))
    assert own.reads == frozenset()
    assert before.keys() == dict.fromkeys(tmp_path.rglob("*")).keys()


def test_a_version_that_a_shared_folder_shows_late_is_waited_for(tmp_path):
    (tmp_path / "published").mkdir()

    async def work():
        own = Versions(SharedFolder(tmp_path / "published"), RUN)
        digest = publish_version(tmp_path / "elsewhere", 1)
        own.heard(1, digest)
        with capture_logs() as logs:
            fetching = asyncio.create_task(own.fetch(1, digest))
            await lines(logs, 1)
            folder_of(tmp_path / "elsewhere", 1).rename(folder_of(tmp_path / "published", 1))
            return (await fetching)[0], logs[0]["event"]

    assert asyncio.run(work()) == (folder_of(tmp_path / "published", 1), "waiting_for_shared_folder")


def test_a_shared_folder_that_is_not_there_is_told_by_name(tmp_path):
    with pytest.raises(UsageError, match=r"none: no folder of this machine; mount it"):
        SharedFolder(tmp_path / "none")


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
