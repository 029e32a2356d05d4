from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.checkpoint import Manifest, Probe, folder_of, publish, read_manifest
from common.messages import FileRequest
from learner.gateway.blobs import Blobs


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("not for actors")
    manifest = Manifest(
        run_id="r", policy_version=3, kind="full", step=3, files={}, probe=Probe(tokens=(1, 2), log_probs=(-1.0,))
    )
    publish(
        tmp_path / "checkpoints", manifest, lambda folder: (folder / "model.safetensors").write_bytes(b"0123456789")
    )
    return tmp_path / "checkpoints"


def ask(name: str, *, version: int = 3, offset: int = 0, length: int = 100) -> FileRequest:
    return FileRequest(policy_version=version, name=name, offset=offset, length=length)


def test_a_chunk_is_the_bytes_asked_for(checkpoints):
    blobs = Blobs(checkpoints)
    chunk = blobs.chunk(ask("model.safetensors", offset=3, length=4))
    assert (chunk.data, chunk.offset, chunk.size, chunk.error) == (b"3456", 3, 10, "")
    assert blobs.chunk(ask("model.safetensors", offset=8)).data == b"89"
    assert blobs.chunk(ask("model.safetensors", offset=99)).data == b""
    blobs.close()


def test_the_manifest_itself_is_served(checkpoints):
    blobs = Blobs(checkpoints)
    assert (
        blobs.chunk(ask("manifest.json", length=1 << 20)).data
        == (folder_of(checkpoints, 3) / "manifest.json").read_bytes()
    )
    blobs.close()


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "..", "other.safetensors"])
def test_only_what_the_manifest_names_is_served(checkpoints, name):
    chunk = Blobs(checkpoints).chunk(ask(name))
    assert (chunk.data, chunk.error) == (b"", "the manifest does not name it")


def test_a_version_that_is_not_kept_is_said_so(checkpoints):
    assert (
        Blobs(checkpoints).chunk(ask("model.safetensors", version=2)).error
        == "version 2 is not there or no longer kept"
    )


def test_a_link_out_of_the_folder_is_not_followed(checkpoints):
    file = folder_of(checkpoints, 3) / "model.safetensors"
    file.unlink()
    file.symlink_to("../../secret")
    assert Blobs(checkpoints).chunk(ask("model.safetensors")).data == b""


def test_a_version_published_again_is_served_anew_and_one_that_was_retired_is_read_to_its_end(checkpoints):
    blobs = Blobs(checkpoints)
    assert blobs.chunk(ask("model.safetensors", length=4)).data == b"0123"
    manifest, _ = read_manifest(folder_of(checkpoints, 3))
    publish(checkpoints, manifest, lambda folder: (folder / "model.safetensors").write_bytes(b"abcdefg"))
    chunk = blobs.chunk(ask("model.safetensors", length=4))
    assert (chunk.data, chunk.size) == (b"abcd", 7)
    shutil.rmtree(folder_of(checkpoints, 3))
    assert blobs.chunk(ask("model.safetensors", offset=4)).data == b"efg"
    blobs.close()
