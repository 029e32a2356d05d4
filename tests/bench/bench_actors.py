"""What an actor costs the learner: the gateway's processor time and memory with 1, 10, 100, 1,000 actors.

    python tests/bench/bench_actors.py [--actors 1,10,100,1000] [--trajectories 2000] [--size 50000] [--json]

Light actors, all in this process, speak the real protocol over real sockets with CURVE, a key and a connection each, to
a real gateway process; a trainer takes groups and publishes versions through the trainer's port meanwhile. Every actor
holds `--slots` leases all the time, so a thousand have 8,000 out. The work is the same at each number of actors: a
trajectory is sent and acknowledged, a lease is asked for and granted, a heartbeat names all leases held; `--window`
trajectories are under way at a time, of the actors whose leases are oldest. Each version is announced to each actor: at
240 trajectories a step, a thousand actors get four announcements a trajectory, one actor none.

raw      the same connections, messages and window against a bare pyzmq ROUTER with CURVE that answers `ok` and keeps
         nothing: what libzmq and the system alone take. Ours less raw is what our own code and SQLite take.

Told for each number of actors: processor ms a trajectory (its heartbeat and lease included; the time of connecting is
not), the same of `raw`, processor ms that an actor's arrival takes (handshake, Hello, its leases), share of a processor
while everybody only beats (every `--beat` seconds), resident memory with all connected and at the end. `against_fewest`
is the ratio to the smallest number of actors: at most 1.2 is asked for. Processor time is that of all threads of the
process, from /proc, in steps of 10 ms.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import light_actors as light

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

TICK = os.sysconf("SC_CLK_TCK")
GROUP, GROUPS = 6, 40  # a step as the paper has it
WARM_UP = 200  # trajectories before the clock starts


def cpu_seconds(pid):
    """Of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def megabytes(pid):
    """Resident memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def measured(pid, where, names_and_keys, talk, options):
    """One number of actors against the server at `where`, port and public key: figures."""
    import zmq

    port, server_public = where

    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 4 * len(names_and_keys) + 100)
    before, memory_before = cpu_seconds(pid), megabytes(pid)
    actors = [light.Actor(context, name, keys, server_public, port) for name, keys in names_and_keys]
    try:
        order = light.arrive(actors, talk, options.slots, options.window)
        arrived, memory = cpu_seconds(pid) - before, megabytes(pid)
        light.work(order, talk, WARM_UP, options.window)
        since, began = cpu_seconds(pid), time.perf_counter()
        light.work(order, talk, options.trajectories, options.window)
        worked, seconds = cpu_seconds(pid) - since, time.perf_counter() - began
        since, began = cpu_seconds(pid), time.perf_counter()
        light.beat(actors, talk, options.idle, options.beat, options.window)
        idle = (cpu_seconds(pid) - since) / (time.perf_counter() - began)
        return {
            "processor_ms_a_trajectory": round(1e3 * worked / options.trajectories, 3),
            "processor_ms_an_arrival": round(1e3 * arrived / len(actors), 2),
            "processor_share_of_beating": round(idle, 4),
            "megabytes_before": round(memory_before, 1),
            "megabytes_connected": round(memory, 1),
            "megabytes_at_end": round(megabytes(pid), 1),
            "trajectories_per_second": round(options.trajectories / seconds, 1),
        }
    finally:
        for actor in actors:
            actor.socket.close()
        context.term()


# --- the two servers


def raw_server(keys, told):
    import zmq

    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.curve_publickey, socket.curve_secretkey = keys
        socket.curve_server = True
        told.send(socket.bind_to_random_port("tcp://127.0.0.1"))
        while True:
            routing, number, _body = socket.recv_multipart(copy=False)
            socket.send_multipart([routing.bytes, number.bytes, b"ok"])


def raw(names_and_keys, options):
    import zmq

    keys = zmq.curve_keypair()
    spawn = get_context("spawn")
    here, there = spawn.Pipe()
    server = spawn.Process(target=raw_server, args=(keys, there))
    server.start()
    try:
        return measured(server.pid, (here.recv(), keys[0]), names_and_keys, light.Raw(options.size), options)
    finally:
        server.terminate()
        server.join()


def ours(folder, names_and_keys, options):
    """A gateway process on a run folder of its own, and a trainer that takes what it gives."""
    import yaml

    from common.keys import learner_keys, new_keys

    folder.mkdir()
    new_keys(folder / "keys", "learner")
    (folder / "keys" / "actors").mkdir()
    for name, (public, _) in names_and_keys:
        (folder / "keys" / "actors" / f"{name}.public").write_bytes(public + b"\n")
    (folder / "train.txt").write_text("\n".join(f"task_{number}" for number in range(100)))
    out = len(names_and_keys) * options.slots
    rollout = {
        "train_tasks": str(folder / "train.txt"),
        "steps": 1_000_000,
        "groups_per_step": GROUPS,
        "group_size": GROUP,
        "staleness_bound": 3 + out // (GROUP * GROUPS),
        "lease_seconds": 600.0,
        "straggler_share": 1.0,
    }
    link = {"port": 0, "files_port": 0, "keys": str(folder / "keys"), **json.loads(options.link)}
    tree = {"run": {"folder": str(folder)}, "link": link, "learner": {"rollout": rollout}}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, *options.profile.split(), "-m", "learner.gateway.service"]
    stop = threading.Event()
    with (folder / "gateway.txt").open("w") as told:
        gateway = subprocess.Popen([*command, "--config", str(folder / "config.yaml")], cwd=ROOT, stderr=told)
        try:
            while not (folder / "gateway.json").exists():
                assert gateway.poll() is None, (folder / "gateway.txt").read_text()
                time.sleep(0.01)
            ready = threading.Event()
            trainer = threading.Thread(target=train, args=(folder, stop, ready), daemon=True)
            trainer.start()
            ready.wait()
            port = json.loads((folder / "gateway.json").read_text())["port"]
            public = learner_keys(folder / "keys").public
            return measured(gateway.pid, (port, public), names_and_keys, light.Ours(options.size), options)
        finally:
            stop.set()
            trainer.join(30)
            gateway.terminate()
            gateway.wait()
            shutil.rmtree(folder)


def train(folder, stop, ready):
    """Steps as fast as groups come; what they hold is trained on unread."""
    from learner.gateway.trainer_port import TrainerPort, Waiting

    port = TrainerPort(folder)
    port.hello(None)
    port.published(0, "00" * 32, 0, [], {})
    ready.set()
    step = 1
    while not stop.is_set():
        groups = port.next_groups(step)
        if not isinstance(groups, Waiting):
            ids = [member.trajectory_id for group in groups for member in group.members]
            port.published(step, f"{step:064x}", step, ids, {})
            step += 1
    port.close()


def run(options):
    import zmq

    sizes = [int(number) for number in options.actors.split(",")]
    names_and_keys = [(f"actor-{number}", zmq.curve_keypair()) for number in range(max(sizes))]
    result = {name: getattr(options, name) for name in ("trajectories", "size", "slots", "window", "beat")}
    result |= {"ours": {}, "raw": {}}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-actors-") as scratch:
        for number in sizes:
            some = names_and_keys[:number]
            result["raw"][number] = raw(some, options)
            result["ours"][number] = ours(Path(scratch) / str(number), some, options)
            if not options.json:
                for name in ("ours", "raw"):
                    print(number, name, result[name][number], flush=True)
    for name in ("ours", "raw"):
        fewest = result[name][sizes[0]]["processor_ms_a_trajectory"]
        for figures in result[name].values():
            figures["against_fewest"] = round(figures["processor_ms_a_trajectory"] / max(fewest, 1e-9), 3)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT, help="where run folders are made; on a real disk")
    parser.add_argument("--actors", default="1,10,100,1000", help="numbers of actors, separated by commas")
    parser.add_argument("--trajectories", type=int, default=2000, help="in all, at each number of actors")
    parser.add_argument("--size", type=int, default=50_000, help="bytes of a trajectory")
    parser.add_argument("--slots", type=int, default=8, help="leases that each actor holds")
    parser.add_argument("--window", type=int, default=8, help="trajectories under way at a time, in all")
    parser.add_argument("--beat", type=float, default=2.0, help="seconds between an actor's heartbeats when idle")
    parser.add_argument("--idle", type=float, default=6.0, help="seconds of beating alone")
    parser.add_argument("--link", default="{}", help="further options of the section link, as JSON")
    parser.add_argument("--profile", default="", help="words before -m, such as '-m cProfile -o FILE'")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    result = run(options)
    if options.json:
        print(json.dumps(result))
        return
    for number, figures in result["ours"].items():
        own = figures["processor_ms_a_trajectory"] - result["raw"][number]["processor_ms_a_trajectory"]
        print(
            f"{number:>5} actors {figures['processor_ms_a_trajectory']:>8} ms a trajectory"
            f" ({own:.3f} of our own) {figures['against_fewest']:>6} x the fewest"
            f" {figures['megabytes_at_end']:>8} MB {100 * figures['processor_share_of_beating']:>6.1f} % while beating"
        )


if __name__ == "__main__":
    main()
