"""A learner's folder, an actor's folder, a scripted policy: what the tests of versions and reloads are made of."""

import asyncio
import hashlib
from contextlib import asynccontextmanager

from actor.config import ReloadConfig
from actor.downloads import Downloads
from actor.probe import Score
from actor.reload import Reloader
from actor.version_folders import VersionFolders
from actor.versions import Versions
from common.checkpoint import Manifest, Probe, folder_of, publish
from common.errors import RunError
from common.messages import FileChunk

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
        return hashlib.sha256(content).hexdigest()


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
        return [Score([log_prob + off for log_prob in probe_of(version).log_probs])]

    async def refuse(self):
        self.events.append(("refuse", self.full))

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
        self.folders = VersionFolders(self.own, RUN)
        self.versions = Versions(Downloads(self.folders, self.files), RUN)
        self.policy = ScriptedPolicy(wrong=wrong)
        self.reports = []
        config = ReloadConfig(attempts=attempts, retry_seconds=0.001)
        self.reloader = Reloader(self.versions, self.policy, config, self.report)
        self.publish(0)

    def there(self, version):
        """The folders of a version on the actor's machine."""
        return sorted((self.own / RUN).glob(f"v{version:06d}-*"))

    async def report(self, message):
        self.reports.append(message)

    def publish(self, version, **how):
        digest = publish_version(self.published, version, **how)
        self.versions.heard(version, digest)
        return digest

    async def begin(self):
        await self.reloader.begin(*await self.versions.fetch(0))
        self.policy.events.clear()
