"""Files over the link against a bare ROUTER that sends chunks of them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_ends import learner, run

from common.config import LinkConfig
from common.errors import RunError
from common.file_link import FileLink
from common.keys import actor_keys
from common.messages import FileChunk, FileRequest
from common.wire import CHUNK_BYTES

CONTENT = bytes(range(256)) * 9000  # four whole chunks and a bit


def chunk_of(request: FileRequest, content: bytes = CONTENT, most: int = 1 << 20) -> FileChunk:
    data = content[request.offset : request.offset + min(request.length, most)]
    named = {"policy_version": request.policy_version, "name": request.name, "offset": request.offset}
    return FileChunk(**named, size=len(content), data=data)


async def fetch(keys: Path, port: int, target: Path, size: int = len(CONTENT)) -> None:
    config = LinkConfig(files_port=port, keys=keys, heartbeat_seconds=0.1)
    link = FileLink(config, actor_keys(keys, "actor-0"))
    try:
        await link.fetch_file(3, "model.safetensors", size, target)
    finally:
        await link.close()


def test_a_file_comes_whole_in_chunks(keys, tmp_path):
    async def check() -> None:
        async with learner(keys, chunk_of) as there:
            await fetch(keys, there.port, tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == CONTENT

    run(check())


def test_a_file_goes_on_from_what_is_there(keys, tmp_path):
    async def check() -> None:
        (tmp_path / "got").write_bytes(CONTENT[:1_000_000])
        async with learner(keys, chunk_of) as there:
            await fetch(keys, there.port, tmp_path / "got")
            assert min(message.offset for _, message in there.heard) == 1_000_000
        assert (tmp_path / "got").read_bytes() == CONTENT

    run(check())


def test_shorter_chunks_than_asked_for_are_put_together(keys, tmp_path):
    async def check() -> None:
        async with learner(keys, lambda request: chunk_of(request, most=200_000)) as there:
            await fetch(keys, there.port, tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == CONTENT

    run(check())


def test_a_file_of_another_size_or_none_at_all_is_an_error(keys, tmp_path):
    async def check() -> None:
        async with learner(keys, chunk_of) as there:
            with pytest.raises(RunError, match="2304000 bytes at the learner, the manifest says 5"):
                await fetch(keys, there.port, tmp_path / "got", size=5)
        missing = FileChunk(policy_version=3, name="x", offset=0, size=0, data=b"", error="version 3 is no longer kept")
        async with learner(keys, lambda _: missing) as there:
            with pytest.raises(RunError, match=r"version 3, model\.safetensors: version 3 is no longer kept"):
                await fetch(keys, there.port, tmp_path / "other")

    run(check())


class LocalFiles(FileLink):
    """A file link without a network: gives so many bytes, then breaks."""

    def __init__(self, content: bytes, gives: int) -> None:
        self.content, self.gives, self.asked = content, gives, []

    async def fetch(self, version: int, name: str, offset: int, length: int) -> FileChunk:
        self.asked.append(offset)
        given = self.content[offset : min(offset + length, self.gives)]
        if not given:
            raise RunError("cut")
        return FileChunk(policy_version=version, name=name, offset=offset, size=len(self.content), data=given)


@given(cuts=st.lists(st.integers(0, len(CONTENT)), max_size=4).map(sorted))
@settings(max_examples=40, deadline=None)
def test_a_download_cut_at_any_byte_goes_on_from_it_and_has_the_digest_of_the_whole(cuts, tmp_path_factory):
    async def check() -> None:
        target = tmp_path_factory.mktemp("cut") / "got"
        for cut in cuts:
            files = LocalFiles(CONTENT, cut)
            with contextlib.suppress(RunError):
                await files.fetch_file(3, "x", len(CONTENT), target)
            there = target.read_bytes()
            assert there == CONTENT[: len(there)]
        target.write_bytes(CONTENT[: cuts[-1]] if cuts else b"")  # what was under way had arrived when it was cut
        files = LocalFiles(CONTENT, len(CONTENT))
        digest = await files.fetch_file(3, "x", len(CONTENT), target)
        assert digest == hashlib.sha256(CONTENT).hexdigest()
        assert target.read_bytes() == CONTENT
        assert min(files.asked, default=len(CONTENT)) == (cuts[-1] if cuts else 0)

    run(check())


def test_what_is_beyond_the_size_is_cut_off(tmp_path):
    async def check() -> None:
        (tmp_path / "got").write_bytes(CONTENT + b"more")
        digest = await LocalFiles(CONTENT, 0).fetch_file(3, "x", len(CONTENT), tmp_path / "got")
        assert digest == hashlib.sha256(CONTENT).hexdigest()
        assert (tmp_path / "got").read_bytes() == CONTENT

    run(check())


def test_a_damaged_beginning_shows_in_the_digest(tmp_path):
    async def check() -> None:
        (tmp_path / "got").write_bytes(b"!" + CONTENT[1:1000])
        digest = await LocalFiles(CONTENT, len(CONTENT)).fetch_file(3, "x", len(CONTENT), tmp_path / "got")
        assert digest == hashlib.sha256(b"!" + CONTENT[1:]).hexdigest()

    run(check())


def test_a_download_goes_on_from_its_last_byte_when_the_learner_was_away(keys, tmp_path):
    async def check() -> None:
        most = 2 * CHUNK_BYTES

        def some(request: FileRequest) -> FileChunk | None:
            return chunk_of(request) if request.offset + request.length <= most else None

        async with learner(keys, some) as there:
            fetching = asyncio.create_task(fetch(keys, there.port, tmp_path / "got"))
            while len(there.heard) < 5 or (tmp_path / "got").stat().st_size < most:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        async with learner(keys, chunk_of, there.port) as back:
            await fetching
        assert (tmp_path / "got").read_bytes() == CONTENT
        assert min(message.offset for _, message in back.heard) == most

    run(check())
