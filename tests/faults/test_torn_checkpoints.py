"""A version torn at every file and boundary, on either side: no reader ever takes half of one, and the run goes on."""

import asyncio
import hashlib
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from reloading import RUN, ScriptedPolicy, probe_of

from actor.config import ReloadConfig
from actor.downloads import Downloads
from actor.reload import Reloader
from actor.shared_folder import SharedFolder
from actor.version_folders import VersionFolders
from actor.versions import Versions
from common.checkpoint import MANIFEST, Manifest, folder_of, publish, published_versions, read_manifest, verify
from common.errors import RunError
from common.file_link import FileLink
from common.messages import FileRequest
from learner.gateway.blobs import Blobs
from learner.trainer.resume import clear_drafts

FILES = {"model.safetensors": b"weights" * 3000, "config.json": b"{}", "sub/tokenizer.json": b'{"a": 1}'}
FLIPPED = {"flip-first": 0.0, "flip-middle": 0.5, "flip-last": 1.0}
CUT = {"empty": 0.0, "first-byte": 1e-9, "middle": 0.5, "last-byte-gone": 1.0}
DAMAGES = ("missing", "longer", *CUT, *FLIPPED)


def manifest_of(version):
    return Manifest(run_id=RUN, policy_version=version, kind="full", step=version, files={}, probe=probe_of(version))


def publish_files(parent, version, mark=b""):
    def write(folder):
        for name, content in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content + mark)

    return publish(parent, manifest_of(version), write)


def tear(file, damage):
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "longer":
        file.write_bytes(content + b"\0")
    elif damage in CUT:
        file.write_bytes(content[: min(len(content) - 1, -int(-CUT[damage] * len(content) // 1))])
    else:
        index = int(FLIPPED[damage] * (len(content) - 1))
        file.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
    assert not file.exists() or file.read_bytes() != content


class GatewaysFiles(FileLink):
    """Chunks as the gateway serves them, without the network between."""

    def __init__(self, checkpoints):
        self.blobs = Blobs(checkpoints)

    async def fetch(self, version, name, offset, length):
        return self.blobs.chunk(FileRequest(policy_version=version, name=name, offset=offset, length=length))


class ReadingPolicy(ScriptedPolicy):
    """Looks at what it is given to load: all of a version, or the test fails."""

    async def load_full(self, folder, version):
        for name, content in FILES.items():
            assert (folder / name).read_bytes().startswith(content)
        verify(folder)
        return await super().load_full(folder, version)


class Actor:
    """An actor's process, as far as versions go; `repair` is called when it has refused one."""

    def __init__(self, folder, source, repair=lambda: None):
        self.source, self.versions = source, Versions(source, RUN)
        self.policy, self.reports, self.repair = ReadingPolicy(), [], repair
        config = ReloadConfig(attempts=3, retry_seconds=0.001)
        self.reloader = Reloader(self.versions, self.policy, config, self.report)

    async def report(self, message):
        self.reports.append(message.accepted)
        if not message.accepted:
            self.repair()

    def switch(self, version, digest, before):
        """From version 0, whose digest is `before`, to another; closes all files as both sides' ends would."""

        async def life():
            self.versions.heard(0, before)
            await self.reloader.begin(*await self.versions.fetch(0, before))
            self.versions.heard(version, digest)
            await self.reloader.catch_up()

        asyncio.run(life())
        self.versions.close()
        if isinstance(self.source, Downloads):
            self.source._files.blobs.close()
        return self.policy.version


def downloads(folder, checkpoints):
    return Downloads(VersionFolders(folder / "versions", RUN), GatewaysFiles(checkpoints))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_version_torn_on_the_actors_machine_is_fetched_afresh_and_never_loaded(tmp_path, name, damage):
    checkpoints = tmp_path / "checkpoints"
    before, digest = publish_files(checkpoints, 0), publish_files(checkpoints, 1)
    Actor(tmp_path, downloads(tmp_path, checkpoints)).switch(1, digest, before)
    (torn,) = (tmp_path / "versions" / RUN).glob("v000001-*")
    tear(torn / name, damage)
    again = Actor(tmp_path, downloads(tmp_path, checkpoints))
    assert again.switch(1, digest, before) == 1
    assert again.reports == [True]
    assert verify(torn, digest) == read_manifest(folder_of(checkpoints, 1))[0]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("way", ["downloaded", "shared"])
def test_a_version_torn_at_the_learner_is_refused_until_it_is_repaired(tmp_path, monkeypatch, name, damage, way):
    monkeypatch.setattr("actor.shared_folder.SEEN_WITHIN", 0.0)
    checkpoints = tmp_path / "checkpoints"
    before, digest = publish_files(checkpoints, 0), publish_files(checkpoints, 1)
    tear(folder_of(checkpoints, 1) / name, damage)
    source = downloads(tmp_path, checkpoints) if way == "downloaded" else SharedFolder(checkpoints)

    def repair():
        """What a learner does that is started again (and the gateway, when it is told the version)."""
        clear_drafts(checkpoints)
        with pytest.raises(RunError):
            verify(folder_of(checkpoints, 1), digest)
        assert publish_files(checkpoints, 1) == digest
        if way == "downloaded":
            source._files.blobs.forget(1)

    actor = Actor(tmp_path, source, repair)
    assert actor.switch(1, digest, before) == 1
    assert actor.reports == [False, True]


def killed_at(number, work):
    """Whether `work`, in a child, ended before its `number`th step: a file opened, renamed, synced, half written ..."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
        return code == 0
    steps = 0

    def step(*_):
        nonlocal steps
        steps += 1
        if steps == number:
            os.kill(os.getpid(), signal.SIGKILL)

    fsync, write_bytes = os.fsync, Path.write_bytes

    def stepping_fsync(descriptor):
        step()
        fsync(descriptor)

    def stepping_write(file, content):
        write_bytes(file, content[: len(content) // 2])
        step()
        return write_bytes(file, content)

    try:
        os.fsync, Path.write_bytes = stepping_fsync, stepping_write
        sys.addaudithook(lambda event, _: step() if event.startswith(("os.", "shutil.")) or event == "open" else None)
        work()
    finally:
        os._exit(0 if sys.exc_info()[0] is None else 1)


@pytest.mark.parametrize("again", [False, True], ids=["new", "published-again"])
def test_a_learner_killed_at_any_step_of_publishing_shows_nothing_or_a_whole_version(tmp_path, again):
    template = tmp_path / "template"
    before = publish_files(template, 0)
    whole = {publish_files(template, 1)} if again else set()
    checkpoints, number, found = tmp_path / "checkpoints", 0, set()
    ended = False
    while not ended:
        number += 1
        shutil.copytree(template, checkpoints)
        ended = killed_at(number, lambda: publish_files(checkpoints, 1, mark=b"new"))
        seen = whole_as_served(checkpoints, 1)
        found.add(seen)
        for version in published_versions(checkpoints):
            verify(folder_of(checkpoints, version))
        clear_drafts(checkpoints)
        digest = publish_files(checkpoints, 1, mark=b"new")
        assert seen in {"", digest} | whole
        assert sorted(path.name for path in checkpoints.iterdir()) == ["v000000", "v000001"]
        if number % 8 == 0:
            assert Actor(tmp_path, downloads(tmp_path, checkpoints)).switch(1, digest, before) == 1
            shutil.rmtree(tmp_path / "versions")
        shutil.rmtree(checkpoints)
    assert number > 20
    assert found == {"", digest} | whole


def whole_as_served(checkpoints, version):
    """The digest of what the gateway serves as a version, all of whose files are served too; empty: no such version."""
    files = GatewaysFiles(checkpoints)
    text = asyncio.run(files.fetch(version, MANIFEST, 0, 1 << 19))
    if text.error:
        return ""
    for name, entry in Manifest.model_validate_json(text.data).files.items():
        chunk = asyncio.run(files.fetch(version, name, 0, 1 << 19))
        assert hashlib.sha256(chunk.data).hexdigest() == entry.sha256
    files.blobs.close()
    return hashlib.sha256(text.data).hexdigest()
