"""From the trainer's publish to the last of 8 actors' switch, against plain copies of the same file.

    python tests/bench/bench_publish.py [--folder FOLDER] [--megabytes 5,270] [--actors 8] [--only ...] [--json]

A real gateway process; actors are processes with real ActorLink, FileLink, Versions and Reloader, whose policy reads
the adapter's safetensors whole and then answers the probe. All on one machine, over loopback with CURVE, on one disk.

one_machine   the actors name one folder of versions: one download, used by all (the default)
machines      each actor has a folder of its own, as if on a machine of its own: 8 downloads through one gateway
shared        the actors read the learner's own folder (`link.shared_folder`): no download, each hashes for itself
copy_1        one copy of the file, and fsync; copy_8: eight copies at once, each with fsync

`switch` is seconds from the version's being whole on the learner's disk until the last actor uses it; `publish` comes
before it: the learner writes, hashes and syncs. Medians of the repeats. `against` is `switch` over the copy's seconds.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

OURS = ("one_machine", "machines", "shared")
PROBE = {"tokens": (1, 2, 3), "log_probs": (-1.0, -2.0)}


class ReadingPolicy:
    """Reads what it is to load, and says of every version what the learner says; each switch is a line."""

    def __init__(self):
        self.version, self.full, self.adapters = 0, 0, set()

    @asynccontextmanager
    async def held(self):
        yield

    async def load_full(self, folder, version):
        self.full = version
        return 0.0

    async def load_adapter(self, folder, version):
        from safetensors.numpy import load_file

        tensors = await asyncio.to_thread(load_file, folder / "adapter_model.safetensors")
        assert sum(tensor.nbytes for tensor in tensors.values())
        self.adapters.add(version)
        return 0.0

    async def score(self, ids, version):
        from actor.probe import Score

        return [Score(PROBE["log_probs"])]

    async def refuse(self):
        raise AssertionError("the probe agrees")

    async def use(self, version):
        self.version, self.adapters = version, {version}
        print(json.dumps([version, time.monotonic()]), flush=True)

    async def forget(self, version):
        self.adapters.discard(version)

    def loaded(self):
        return {self.full, self.version, *self.adapters}


async def act(options):
    """In a child: an actor's life, as far as versions go."""
    from actor.config import ReloadConfig
    from actor.reload import Reloader
    from actor.versions import Versions, source_of
    from common.config import LinkConfig
    from common.file_link import FileLink
    from common.keys import actor_keys
    from common.link import ActorLink
    from common.messages import PROTOCOL_VERSION, Heartbeat, Hello
    from common.prompt import form_digest
    from common.wire import schema_digest

    where = json.loads((options.folder / "gateway.json").read_text())
    link = LinkConfig(port=where["port"], files_port=where["files_port"], keys=options.folder / "keys")
    keys = actor_keys(link.keys, options.actor)
    hello = Hello(
        protocol=PROTOCOL_VERSION,
        actor=options.actor,
        instance="bench",
        slots=1,
        schema_digest=schema_digest(),
        prompt_digest=form_digest(),
    )
    talk, policy = ActorLink(link, keys, lambda: hello), ReadingPolicy()
    welcome = await talk.connect()
    shared = options.folder / "checkpoints" if options.contestant == "shared" else None
    folder = options.folder / ("versions" if options.contestant == "one_machine" else f"versions-{options.actor}")
    versions = Versions(source_of(shared, folder, welcome.run_id, FileLink(link, keys)), welcome.run_id)

    async def hear():
        async for news in talk.announcements():
            versions.heard(news.policy_version, news.manifest_digest)

    async def beat():
        while True:
            reads = tuple(sorted(versions.reads))
            beat = Heartbeat(policy_version=policy.version, episodes=0, tokens_per_second=0, spooled=0, reads=reads)
            await talk.request(beat)
            await asyncio.sleep(1)

    reloader = Reloader(versions, policy, ReloadConfig(), talk.request)
    versions.heard(welcome.policy_version, welcome.manifest_digest)
    async with asyncio.TaskGroup() as group:
        group.create_task(hear())
        group.create_task(beat())
        await reloader.begin(*await versions.fetch(0, welcome.manifest_digest))
        group.create_task(reloader.run())


def publish(folder, run_id, version, megabytes):
    """Version 0 is a full one of no size, later ones adapters of so many megabytes; gives the digest."""
    import numpy as np
    from safetensors.numpy import save_file

    from common.checkpoint import Manifest, Probe
    from common.checkpoint import publish as publish_version

    adapter = version > 0
    manifest = Manifest(
        run_id=run_id,
        policy_version=version,
        kind="adapter" if adapter else "full",
        base_version=0 if adapter else None,
        step=version,
        files={},
        probe=Probe(**PROBE),
    )
    values = np.random.default_rng(version).integers(0, 1 << 32, int(megabytes * 1e6) // 4, np.uint32) if adapter else 0

    def write(draft):
        (draft / "config.json").write_text("{}")
        (draft / "tokenizer.json").write_text("{}")
        if adapter:
            save_file({"a": values}, draft / "adapter_model.safetensors")

    began = time.monotonic()
    return publish_version(folder / "checkpoints", manifest, write), time.monotonic() - began


def start_gateway(folder, actors):
    import yaml

    from common.keys import new_keys

    folder.mkdir()
    for name in ("learner", *actors):
        new_keys(folder / "keys", name)
    (folder / "train.txt").write_text("a_1\na_2\n")
    tree = {
        "run": {"folder": str(folder)},
        "link": {"port": 0, "files_port": 0, "keys": str(folder / "keys")},
        "learner": {"rollout": {"train_tasks": str(folder / "train.txt"), "steps": 1000}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    arguments = ["-m", "learner.gateway.service", "--config", str(folder / "config.yaml")]
    gateway = subprocess.Popen([sys.executable, *arguments], cwd=ROOT)
    while not (folder / "gateway.json").exists():
        assert gateway.poll() is None
        time.sleep(0.02)
    return gateway


def switched(actors, version):
    """When the last of them had switched."""
    return max(next(at for found, at in map(json.loads, actor.stdout) if found == version) for actor in actors)


def ours(contestant, folder, megabytes, options):
    from learner.gateway.trainer_port import TrainerPort

    names = [f"actor-{number}" for number in range(options.actors)]
    gateway, actors, port = start_gateway(folder, names), [], TrainerPort(folder)
    rows = []
    try:
        run_id = port.hello(None).run_id
        port.published(0, publish(folder, run_id, 0, 0)[0], 0, [], {})
        for name in names:
            words = ["--contestant", contestant, "--folder", str(folder), "--actor", name]
            actors.append(subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True))
        switched(actors, 0)
        for version in range(1, options.repeats + 1):
            digest, published = publish(folder, run_id, version, megabytes)
            whole = time.monotonic()
            port.published(version, digest, version, [], {})
            rows.append((published, switched(actors, version) - whole))
            if version > 1:
                shutil.rmtree(folder / "checkpoints" / f"v{version - 1:06d}")
    finally:
        for process in (*actors, gateway):
            process.kill()
            process.wait()
        port.close()
        shutil.rmtree(folder)
    published, switch = (round(statistics.median(column), 3) for column in zip(*rows, strict=True))
    return {"publish_seconds": published, "switch_seconds": switch}


def copied(folder, megabytes, copies, repeats):
    """Seconds for so many copies at once of one file, each synced."""
    source = folder / "source"
    source.write_bytes(os.urandom(int(megabytes * 1e6)))

    def copy(target):
        shutil.copyfile(source, target)
        with target.open("rb") as stream:
            os.fsync(stream.fileno())

    rows = []
    for _ in range(repeats):
        targets = [folder / f"copy-{number}" for number in range(copies)]
        began = time.monotonic()
        with ThreadPoolExecutor(copies) as pool:
            list(pool.map(copy, targets))
        rows.append(time.monotonic() - began)
        for target in targets:
            target.unlink()
    source.unlink()
    return {"seconds": round(statistics.median(rows), 3)}


def run(options):
    result = {"actors": options.actors, "repeats": options.repeats, "sizes": {}}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-publish-") as scratch:
        for megabytes in map(float, options.megabytes.split(",")):
            found = {}
            for contestant in options.only.split(","):
                found[contestant] = ours(contestant, Path(scratch) / contestant, megabytes, options)
            for copies in (1, options.actors):
                found[f"copy_{copies}"] = copied(Path(scratch), megabytes, copies, options.repeats)
            found["against"] = {
                f"{name}/copy_{copies}": round(found[name]["switch_seconds"] / found[f"copy_{copies}"]["seconds"], 2)
                for name in options.only.split(",")
                for copies in (1, options.actors)
            }
            result["sizes"][f"{megabytes:g}"] = found
            if not options.json:
                print(f"{megabytes:g} MB", json.dumps(found, indent=1), flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT, help="on a real disk")
    parser.add_argument("--megabytes", default="5,270", help="of the adapter's file, separated by commas")
    parser.add_argument("--actors", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default=",".join(OURS))
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--contestant", choices=OURS, help=argparse.SUPPRESS)
    parser.add_argument("--actor", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        import structlog

        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        asyncio.run(act(options))
        return
    result = run(options)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
