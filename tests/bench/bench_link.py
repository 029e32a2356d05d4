"""Trajectories a second over the link: durable, acknowledged, encrypted; against raw pyzmq and against the disk.

    python tests/bench/bench_link.py [--folder FOLDER] [--sizes 50000,500000,5000000] [--megabytes 100] [--json]

whole     an actor process with its real `Outbox` and `ActorLink`, `--window` episodes at a time: spool on disk, send,
          a real gateway process checks, journals with fsync, acknowledges; off the spool. Both disks are the same one.
drained   the same from a spool that was filled before: what the learner's disk and both processes do, without the
          actor's first write.
compressed  `whole` with link.compression zstd; megabytes are those before compression, `share` is what is left of them.
pyzmq     ROUTER and DEALER with CURVE, a process each, an ack per message, window 32; nothing is looked at or kept.
disk      write and fsync, one after the other: a file of its own for each blob, and appended to one file.

All on `--folder` (a real disk, not tmpfs: the default is this repository's folder), in the same run, one after the
other; pyzmq and disk before and after ours, the mean of both, since neighbours come and go. `goal` is at each size what
the others have of the slower of pyzmq and disk (a file each, the rate of fsyncs of blobs; `goal_appended`: appended to
one file, where the disk is at its best): 0.5 is asked for. Trajectories hold Zipf-distributed token ids, log-probs of
sampled tokens (three in ten) and versions, so that compression meets what it meets in a run. Processor milliseconds are
the process's own, all threads.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

TICK = os.sysconf("SC_CLK_TCK")
WINDOW = 32
OURS = ("whole", "drained", "compressed")
GROUP = 8
BYTES_A_TOKEN = 13  # id, mask, log-prob, version
LEAST, MOST = 40, 1000  # trajectories of a size


def cpu_seconds(pid):
    """Of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def peak_megabytes(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


def count_of(size, megabytes):
    return max(LEAST, min(MOST, int(megabytes * 1e6 / size))) // GROUP * GROUP


# --- the bare ends


def raw_server(keys, ports, count):
    import zmq

    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.curve_publickey, socket.curve_secretkey = keys
        socket.curve_server = True
        ports.send(socket.bind_to_random_port("tcp://127.0.0.1"))
        for _ in range(count):
            routing, number, _body = socket.recv_multipart(copy=False)
            socket.send_multipart([routing.bytes, number.bytes, b"ok"])
        socket.recv_multipart()  # the client has got all acks


def raw_client(size, count, port, server_public):
    """Seconds for `count` messages of `size` bytes, an ack each, 32 under way."""
    import zmq

    public, secret = zmq.curve_keypair()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = public, secret, server_public
        socket.connect(f"tcp://127.0.0.1:{port}")
        body = os.urandom(size)
        sent = acked = 0
        began = time.perf_counter()
        while acked < count:
            while sent < count and sent - acked < WINDOW:
                socket.send_multipart([sent.to_bytes(8, "big"), body], copy=False)
                sent += 1
            socket.recv_multipart()
            acked += 1
        seconds = time.perf_counter() - began
        socket.send_multipart([b"", b"bye"])
        socket.setsockopt(zmq.LINGER, 1000)
    return seconds


def pyzmq(size, count):
    import zmq

    keys = zmq.curve_keypair()
    spawn = get_context("spawn")
    here, there = spawn.Pipe()
    server = spawn.Process(target=raw_server, args=(keys, there, count))
    server.start()
    seconds = raw_client(size, count, here.recv(), keys[0])
    server.join()
    return figures(size, count, seconds)


def disk(folder, size, count):
    """Write and fsync: a file each, and appended to one."""
    blob = os.urandom(size)
    place = folder / "fsync"
    place.mkdir()
    began = time.perf_counter()
    for number in range(count):
        with (place / str(number)).open("wb", buffering=0) as stream:
            stream.write(blob)
            os.fsync(stream.fileno())
    each = figures(size, count, time.perf_counter() - began)
    shutil.rmtree(place)
    began = time.perf_counter()
    with (folder / "appended").open("wb", buffering=0) as stream:
        for _ in range(count):
            stream.write(blob)
            os.fsync(stream.fileno())
    appended = figures(size, count, time.perf_counter() - began)
    (folder / "appended").unlink()
    return {"file_each": each, "appended": appended}


def mean(measured):
    """Of several runs of the same: as if they were one."""
    count, seconds = sum(one["count"] for one in measured), sum(one["seconds"] for one in measured)
    size = measured[0]["bytes"]
    return figures(size, count, seconds)


def figures(size, count, seconds):
    return {
        "bytes": size,
        "count": count,
        "seconds": round(seconds, 3),
        "per_second": round(count / seconds, 1),
        "megabytes_per_second": round(count * size / seconds / 1e6, 1),
    }


# --- ours


def trajectory(lease, size, variant):
    """Three tokens in ten sampled, in turns of 60; ids as words are distributed."""
    import numpy as np

    from common.messages import Trajectory

    random = np.random.default_rng(variant)
    count = size // BYTES_A_TOKEN
    place = np.arange(count)
    sampled = place % 200 >= 140
    edges = np.flatnonzero(np.diff(np.concatenate([[0], sampled, [0]]).astype(np.int8)))
    log_probs = np.where(sampled, -random.exponential(0.5, count), 0.0)
    return Trajectory(
        trajectory_id=lease.lease_id,
        lease=lease,
        actor="actor-0",
        token_bytes=(random.zipf(1.3, count) % 150_000).astype("<i4").tobytes(),
        sampled_bytes=sampled.astype("u1").tobytes(),
        log_prob_bytes=log_probs.astype("<f4").tobytes(),
        version_bytes=np.where(sampled, lease.minimum_version, -1).astype("<i4").tobytes(),
        turn_bytes=edges.astype("<i4").tobytes(),
        reward=float(variant % 2),
        success=False,
        started_at=1.7e9,
        seconds=1.0,
        engine_seconds=0.5,
        world_seconds=0.25,
    )


async def send_all(options):
    """In a child: all leases, then their trajectories; seconds and processor seconds of the sending."""
    from actor.outbox import Outbox
    from common.config import LinkConfig
    from common.keys import actor_keys
    from common.link import ActorLink
    from common.messages import PROTOCOL_VERSION, Goodbye, Hello, LeaseRequest
    from common.prompt import form_digest
    from common.wire import encode, schema_digest

    where = json.loads((options.folder / "gateway.json").read_text())
    config = LinkConfig(port=where["port"], files_port=where["files_port"], keys=options.folder / "keys")
    hello = Hello(
        protocol=PROTOCOL_VERSION,
        actor="actor-0",
        instance="bench",
        slots=options.count,
        schema_digest=schema_digest(),
        prompt_digest=form_digest(),
    )
    link = ActorLink(config, actor_keys(config.keys, "actor-0"), lambda: hello)
    welcome = await link.connect()
    leases = (await link.request(LeaseRequest(count=options.count))).leases
    assert len(leases) == options.count, f"{len(leases)} leases of {options.count}"
    variants = [trajectory(leases[0], options.size, number) for number in range(8)]
    made = [
        variants[number % 8].model_copy(update={"trajectory_id": lease.lease_id, "lease": lease})
        for number, lease in enumerate(leases)
    ]
    acks = []
    outbox = Outbox(
        options.folder / "spool.sqlite",
        welcome.run_id,
        link.request,
        acks.append,
        credit_bytes=welcome.credit_bytes,
        compress=options.compressed,
    )
    link.on_credit = outbox.grant
    bare = sum(len(encode(one)) for one in made)

    async def episodes(each):
        for finished in each:
            await outbox.add(finished)

    async def all_added():
        left = iter(made)
        await asyncio.gather(*(episodes(left) for _ in range(WINDOW)))

    if options.drained:
        await all_added()
    began, worked = time.perf_counter(), time.process_time()
    sending = asyncio.create_task(outbox.run())
    if not options.drained:
        await all_added()
    await outbox.flushed()
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    sending.cancel()
    outcomes = Counter(ack.outcome for ack in acks)
    assert outcomes == {"ok": options.count}, outcomes
    await link.request(Goodbye(reason="done"))
    await link.close()
    outbox.close()
    sent = sum(file.stat().st_size for file in (options.folder / "journal").iterdir())
    return {"seconds": seconds, "processor_seconds": worked, "share": round(sent / bare, 3)}


def ours(folder, size, count, *flags):
    """A gateway and an actor, a process each, on a run folder of their own."""
    import yaml

    from common.keys import new_keys
    from learner.gateway.trainer_port import TrainerPort

    folder.mkdir()
    for name in ("learner", "actor-0"):
        new_keys(folder / "keys", name)
    (folder / "train.txt").write_text("\n".join(f"task_{number}" for number in range(50)))
    rollout = {
        "train_tasks": str(folder / "train.txt"),
        "steps": 2,
        "groups_per_step": count // GROUP,
        "group_size": GROUP,
        "lease_seconds": 3600.0,
    }
    link = {"port": 0, "files_port": 0, "keys": str(folder / "keys")}
    tree = {"run": {"folder": str(folder)}, "link": link, "learner": {"rollout": rollout}}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "learner.gateway.service", "--config", str(folder / "config.yaml")]
    words = ["--folder", folder, "--size", size, "--count", count, *flags]
    with (folder / "gateway.txt").open("w") as told:
        gateway = subprocess.Popen(command, cwd=ROOT, stderr=told)
        try:
            while not (folder / "gateway.json").exists():
                assert gateway.poll() is None, (folder / "gateway.txt").read_text()
                time.sleep(0.01)
            port = TrainerPort(folder)
            port.hello(None)
            port.published(0, "00" * 32, 0, [], {})
            port.close()
            worked = cpu_seconds(gateway.pid)
            actor = [sys.executable, str(Path(__file__).resolve()), "--actor", *map(str, words)]
            answer = subprocess.run(actor, cwd=ROOT, capture_output=True, text=True, check=False)
            if answer.returncode:
                raise SystemExit(answer.stderr[-4000:])
            sent = json.loads(answer.stdout.splitlines()[-1])
            worked, peak = cpu_seconds(gateway.pid) - worked, peak_megabytes(gateway.pid)
        finally:
            gateway.terminate()
            gateway.wait()
    shutil.rmtree(folder)
    return {
        **figures(size, count, sent["seconds"]),
        "share": sent["share"],
        "gateway_processor_ms": round(1e3 * worked / count, 3),
        "actor_processor_ms": round(1e3 * sent["processor_seconds"] / count, 3),
        "gateway_peak_megabytes": round(peak, 1),
    }


def run(options):
    result = {}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-link-") as scratch:
        for size in map(int, options.sizes.split(",")):
            count = count_of(size, options.megabytes)
            place = Path(scratch)
            raw, synced = [pyzmq(size, count)], [disk(place, size, count)]
            one = {
                "whole": ours(place / "whole", size, count),
                "drained": ours(place / "drained", size, count, "--drained"),
                "compressed": ours(place / "compressed", size, count, "--compressed"),
            }
            raw.append(pyzmq(size, count))
            synced.append(disk(place, size, count))
            one["pyzmq"] = mean(raw)
            one["disk"] = {way: mean([each[way] for each in synced]) for way in synced[0]}
            for goal, way in (("goal", "file_each"), ("goal_appended", "appended")):
                slower = min(one["disk"][way]["megabytes_per_second"], one["pyzmq"]["megabytes_per_second"])
                one[goal] = {name: round(one[name]["megabytes_per_second"] / slower, 2) for name in OURS}
            result[str(size)] = one
            if not options.json:
                tell(size, one)
    return result


def tell(size, one):
    print(
        f"{size} bytes a trajectory, {one['whole']['count']} of them; asked for is 0.5 of the slower of pyzmq and disk"
    )
    rows = {name: one[name] for name in (*OURS, "pyzmq")}
    rows |= {f"disk, {name}": way for name, way in one["disk"].items()}
    for name, row in rows.items():
        share = f"  {one['goal'][name]} ({one['goal_appended'][name]}) of the slower" if name in one["goal"] else ""
        work = "".join(f"  {key} {row[key]}" for key in row if key.endswith(("_ms", "peak_megabytes", "share")))
        speed = f"{row['per_second']:>9.1f}/s {row['megabytes_per_second']:>8.1f} MB/s"
        print(f"  {name:<16} {speed}{share}{work}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT, help="where run folders are made; on a real disk")
    parser.add_argument("--sizes", default="50000,500000,5000000", help="bytes of a trajectory, separated by commas")
    parser.add_argument("--megabytes", type=float, default=100.0, help="of a size in all, at least 40 trajectories")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--actor", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--drained", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--compressed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.actor:
        print(json.dumps(asyncio.run(send_all(options))))
        return
    result = run(options)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
