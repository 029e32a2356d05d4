"""Actors of one machine, as processes: one download for all, and whoever is killed amid it costs nothing that came."""

import asyncio
import contextlib
import random
import signal
import subprocess

import pytest
from fetching import FetchingActor
from link_ends import learner
from reloading import RUN, publish_version

from common.checkpoint import MANIFEST, folder_of, verify
from common.keys import new_keys
from common.wire import CHUNK_BYTES
from learner.gateway.blobs import Blobs

CONTENT = random.Random(1).randbytes(8 * CHUNK_BYTES + 12345)
WEIGHTS = "model.safetensors"
IN_FLIGHT = 6 * CHUNK_BYTES  # asked for, and lost with who asked


class Serving:
    """Answers from the gateway's own reader; counts what it gives of the weights, and stops after `most` bytes."""

    def __init__(self, checkpoints):
        self.blobs, self.given, self.most, self.asked = Blobs(checkpoints), 0, 1 << 40, []

    def __call__(self, request):
        if request.name == WEIGHTS:
            self.asked.append(request.offset)
            if self.given >= self.most:
                return None
        chunk = self.blobs.chunk(request)
        self.given += len(chunk.data) if request.name == WEIGHTS else 0
        return chunk


@contextlib.asynccontextmanager
async def machine(tmp_path, names, **options):
    """A learner with a version to give, and actors of one machine, started; the version's digest."""
    for name in ("learner", *names):
        new_keys(tmp_path / "keys", name)
    digest = publish_version(tmp_path / "checkpoints", 1, content=CONTENT)
    serving = Serving(tmp_path / "checkpoints")
    async with learner(tmp_path / "keys", serving) as there:
        actors = [
            FetchingActor(tmp_path / "keys", tmp_path / "versions", port=there.port, name=name, **options)
            for name in names
        ]
        try:
            yield serving, actors, digest
        finally:
            for each in actors:
                each.end()


def bytes_there(tmp_path):
    return sum(file.stat().st_size for file in (tmp_path / "versions").glob(f"{RUN}/.fetch-*/files/{WEIGHTS}"))


async def until(condition):
    while not condition():  # noqa: ASYNC110 - other processes and their files have nothing to await
        await asyncio.sleep(0.01)


def run(coroutine):
    asyncio.run(asyncio.wait_for(coroutine, 60))


def test_three_actors_of_a_machine_cost_the_learner_one_download(tmp_path):
    async def check():
        async with machine(tmp_path, ["a", "b", "c"]) as (serving, actors, digest):
            answers = await asyncio.gather(*(each.fetch(1, digest) for each in actors))
            assert serving.given == len(CONTENT)
        folders = {folder for word, folder in answers if word == "fetched"}
        assert len(folders) == 1
        (folder,) = (tmp_path / "versions" / RUN).iterdir()
        assert str(folder) in folders
        verify(folder, digest)

    run(check())


def test_when_the_downloading_actor_is_killed_another_goes_on_from_its_bytes(tmp_path):
    async def check():
        async with machine(tmp_path, ["a", "b"]) as (serving, (first, second), digest):
            serving.most = 3 * CHUNK_BYTES
            first.say("fetch", 1, digest)
            await until(lambda: bytes_there(tmp_path) == serving.given == 3 * CHUNK_BYTES)
            second.say("fetch", 1, digest)
            await second.logged("waiting_for_download")
            first.end()
            serving.asked.clear()
            await until(lambda: serving.asked)
            serving.most = 1 << 40
            word, folder = await second.answer()
            assert word == "fetched", folder
            assert min(serving.asked) == 3 * CHUNK_BYTES
            assert serving.given == len(CONTENT), "no byte came twice"
            verify(tmp_path / "versions" / RUN / folder.rpartition("/")[2], digest)

    run(check())


def test_an_actor_that_is_stopped_amid_a_download_is_passed_by_and_takes_what_is_there_when_it_goes_on(tmp_path):
    async def check():
        async with machine(tmp_path, ["a", "b"], stuck_after=1.5) as (serving, (first, second), digest):
            serving.most = CHUNK_BYTES
            first.say("fetch", 1, digest)
            await until(lambda: bytes_there(tmp_path) == CHUNK_BYTES)
            first.process.send_signal(signal.SIGSTOP)
            serving.most = 1 << 40
            word, folder = await second.fetch(1, digest)
            assert word == "fetched", folder
            first.process.send_signal(signal.SIGCONT)
            assert await first.answer() == ("fetched", folder)
            assert versions_there(tmp_path) == ["v000001"]
            verify((tmp_path / "versions" / RUN).joinpath(folder.rpartition("/")[2]), digest)

    run(check())


def test_a_version_that_only_a_killed_actor_used_is_removed_by_the_next_one_that_looks(tmp_path):
    async def check():
        async with machine(tmp_path, ["a", "b"]) as (_, (first, second), digest):
            newer = publish_version(tmp_path / "checkpoints", 2)
            await first.fetch(1, digest)
            await second.fetch(2, newer)
            second.say("keep", 2)
            await second.answer()
            both = versions_there(tmp_path)
            first.end()
            second.say("keep", 2)
            await second.answer()
            assert (both, versions_there(tmp_path)) == (["v000001", "v000002"], ["v000002"])

    run(check())


def versions_there(tmp_path):
    return sorted(path.name[:7] for path in (tmp_path / "versions" / RUN).iterdir())


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MiB for versions, which holds none of them."""
    (tmp_path / "versions").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path / "versions")]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield tmp_path / "versions"
    subprocess.run(["umount", str(tmp_path / "versions")], check=True)


def resize(disk, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def test_a_disk_without_room_is_said_so_and_the_download_begins_when_there_is(tmp_path, small_disk):
    async def check():
        async with machine(tmp_path, ["a"]) as (serving, (one,), digest):
            one.say("fetch", 1, digest)
            assert "missing=4206" in await one.logged("no_room_for_version")
            assert serving.given == 0
            resize(small_disk, "16m")
            word, folder = await one.answer()
            assert word == "fetched", folder
            assert serving.given == len(CONTENT)

    run(check())


def test_a_disk_that_others_fill_amid_a_download_costs_a_wait(tmp_path, small_disk):
    async def check():
        resize(small_disk, "16m")
        async with machine(tmp_path, ["a"]) as (serving, (one,), digest):
            serving.most = 2 * CHUNK_BYTES
            one.say("fetch", 1, digest)
            await until(lambda: bytes_there(tmp_path) == 2 * CHUNK_BYTES)
            with contextlib.suppress(OSError), (small_disk / "others").open("wb", buffering=0) as others:
                others.write(bytes(20 << 20))
            serving.most = 1 << 40
            await one.logged("disk_full")
            (small_disk / "others").unlink()
            word, folder = await one.answer()
            assert word == "fetched", folder
            verify(small_disk / RUN / folder.rpartition("/")[2], digest)

    run(check())


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_actors_killed_at_random_instants_of_a_download_leave_nothing_torn(tmp_path, kills):
    chance = random.Random(kills)
    (tmp_path / "versions").mkdir()

    async def check():
        async with machine(tmp_path, ["a"]) as (serving, actors, digest):
            whole, torn = 0, -1
            for _ in range(kills):
                serving.most = serving.given + 1 + chance.randrange(len(CONTENT) // 2)
                before = len(serving.asked)
                actor = FetchingActor(tmp_path / "keys", tmp_path / "versions", port=actors[0].port, name="a")
                actor.say("fetch", 1, digest)
                await until(lambda torn=torn: serving.given >= serving.most or finished(tmp_path, torn))
                await asyncio.sleep(chance.random() * 0.02)
                actor.end()
                assert len(serving.asked) >= before
                for folder in finished(tmp_path, torn):
                    verify(folder, digest)
                    (folder / WEIGHTS).unlink()  # torn by something else: the next one starts anew
                    whole, torn = whole + 1, folder.stat().st_ctime_ns
            serving.most = 1 << 40
            word, folder = await actors[0].fetch(1, digest)
            assert word == "fetched", folder
            assert serving.given <= (whole + 1) * len(CONTENT) + kills * IN_FLIGHT, "what had come did not come again"
        for folder in finished(tmp_path):
            verify(folder, digest)
            assert (folder / MANIFEST).read_bytes() == (folder_of(tmp_path / "checkpoints", 1) / MANIFEST).read_bytes()

    asyncio.run(asyncio.wait_for(check(), 30 + 5 * kills))


def finished(tmp_path, torn=-1):
    """Folders of versions that stand as whole, but for the one last changed at `torn`."""
    return [path for path in (tmp_path / "versions" / RUN).glob("v*") if path.stat().st_ctime_ns != torn]
