import asyncio
import errno
import os

import pytest

from actor.spool import Spool


def names_in(folder):
    """As another start would find it."""
    spool = Spool(folder / "spool.sqlite", "run")
    spool.close()
    return spool.ids


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path / "spool.sqlite", "run")
    yield made
    made.close()


def test_what_comes_while_the_disk_is_busy_is_one_sync(spool, monkeypatch):
    synced = []
    sync = os.fdatasync
    monkeypatch.setattr("common.segments.os.fdatasync", lambda descriptor: synced.append(sync(descriptor)))

    async def add_all():
        await asyncio.gather(*(spool.add(f"g1.{member}.0", b"frame") for member in range(50)))

    asyncio.run(add_all())
    assert len(spool.ids) == 50
    assert len(synced) <= 2


def test_a_file_goes_when_none_of_its_frames_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("actor.spool.SEGMENT_BYTES", 10)
    spool = Spool(tmp_path / "spool.sqlite", "run")

    async def add_and_remove():
        for number in range(3):
            await spool.add(f"g{number}.0.0", b"123456")
        spool.remove("g0.0.0")
        spool.remove("g2.0.0")
        await spool.add("g3.0.0", b"123456")

    asyncio.run(add_and_remove())
    spool.close()
    assert sorted(file.name for file in (tmp_path / "spool").iterdir()) == [f"00000{n}.frames" for n in (2, 4)]
    assert names_in(tmp_path) == ("g1.0.0", "g3.0.0")


def test_a_full_disk_refuses_the_frame_and_keeps_what_was_there(spool, tmp_path, monkeypatch):
    async def fill():
        await spool.add("g1.0.0", b"whole")
        monkeypatch.setattr("common.segments.os.pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            await spool.add("g1.1.0", b"refused")
        spool.remove("g1.0.0")
        with pytest.raises(OSError, match="No space left"):
            await spool.add("g1.2.0", b"refused")
        monkeypatch.undo()
        await spool.add("g1.3.0", b"fits")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    asyncio.run(fill())
    spool.close()
    assert names_in(tmp_path) == ("g1.3.0",)


def test_a_frame_that_no_row_names_yet_is_nothing_after_a_crash(spool, tmp_path):
    asyncio.run(spool.add("g1.0.0", b"whole"))
    spool._segments.append(b"killed before its row")
    spool.close()
    assert names_in(tmp_path) == ("g1.0.0",)
    assert [file.read_bytes() for file in (tmp_path / "spool").iterdir()] == [b"whole"]
