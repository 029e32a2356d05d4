"""What a world costs, against the engine as it is and against AppWorld's own HTTP server, in one run.

    python tests/bench/bench_world.py --python APPWORLD_PYTHON --root DATA_ROOT [--json]
        [--parts ready throughput memory costs server] [--worlds 1 8 32 128] [--servers 1 8]

ready       time until a world can be used and its private memory: ours, a cold engine, forks of a warm process
throughput  episodes a second and core-milliseconds by part, at so many worlds at once; the unmodified engine beside it
memory      of so many worlds at once, all but their last cell played
costs       core-milliseconds an episode without confinement, and without grading: what each of the two costs
server      episodes a second and memory of so many of AppWorld's servers, a worker each, on the loopback interface

Episodes replay reference solutions in groups of `--group`. Only this file can take the confinement away.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import appworld_servers

from actor.world import process
from actor.world.client import WorldHost
from actor.world.config import WorldConfig
from common.log import configure

UNMODIFIED = Path(__file__).parents[1] / "actor" / "world" / "unmodified.py"
ENGINE = Path(__file__).with_name("engine_worlds.py")
TICK = os.sysconf("SC_CLK_TCK")
PARTS = ("ready", "throughput", "memory", "costs", "server")
UNCONFINED = """


def enter(readable, writable):
    return ()


def confine(*, uid, limits, keep, folder, **_):
    os.setpgid(0, 0)
    os.setpriority(os.PRIO_PROCESS, 0, limits.nice)
    _close_all_but(keep)
    os.chdir(folder)
"""


def episodes(root, tasks):
    """The reference solutions of the tasks that come nearest to 4 turns and 6 API calls, as plain cells."""
    found = []
    for folder in sorted((root / "full" / "data" / "tasks").iterdir()):
        cells = json.loads((folder / "ground_truth" / "solution.json").read_text())["cells"]
        calls = sum(len(re.findall(r"\bapis\.\w+\.\w+\(", cell)) for cell in cells)
        found.append({"task": folder.name, "cells": cells, "calls": calls})
    found.sort(key=lambda one: (abs(len(one["cells"]) - 4), abs(one["calls"] - 6), one["task"]))
    return found[:tasks]


def cpu_seconds(pid):
    """Of a process itself, and of its buried children."""
    fields = [int(field) for field in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]]
    return (fields[0] + fields[1]) / TICK, (fields[2] + fields[3]) / TICK


def cpu_by_part(host):
    """Opening and forking, the members with their cells, the grader, this process."""
    opening, members = cpu_seconds(host._host.process.process.pid)
    grading, _ = cpu_seconds(host._grader._process.process.pid)
    return {"opening": opening, "members": members, "grading": grading, "client": time.process_time()}


def megabytes(pid, what):
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kb) for kb in re.findall(rf"^{what}:\s+(\d+)", text, re.MULTILINE)) / 1024


def pids(world):
    """Of a world's member process, and of its cell process."""
    texts = [Path(f"/proc/self/fdinfo/{descriptor}").read_text() for descriptor in world._pidfds]
    return [int(re.search(r"^Pid:\s+(\d+)", text, re.MULTILINE)[1]) for text in texts]


def private(world):
    return [megabytes(pid, r"Private_\w+") for pid in pids(world)]


def medians(rows):
    return {key: round(statistics.median(row[key] for row in rows), 1) for key in rows[0]}


@contextmanager
def unconfined():
    """Hosts of a copy of the package whose processes give nothing up."""
    kept = process.PACKAGE
    with tempfile.TemporaryDirectory() as folder:
        process.PACKAGE = Path(folder) / "actor"
        shutil.copytree(kept, process.PACKAGE)
        with (process.PACKAGE / "world" / "sandbox.py").open("a") as file:
            file.write(UNCONFINED)
        try:
            yield
        finally:
            process.PACKAGE = kept


async def started(options):
    config = WorldConfig(max_worlds=max(options.worlds), cell_seconds=200, open_seconds=200)
    return await WorldHost.start(config, options.python, options.root)


async def ready(host, chosen):
    """One world after the other: the first of a task opens it, the others are forked from what is open."""
    rows = {"first": [], "next": []}
    for episode in chosen:
        for name in ("first", "next", "next"):
            since = time.monotonic()
            world = await host.open(episode["task"])
            figures = {"ready_ms": 1e3 * (time.monotonic() - since)}
            figures["private_mb_ready"] = sum(private(world))
            for cell in episode["cells"]:
                await world.execute(cell)
            figures["private_mb_member_end"], figures["private_mb_cell_end"] = private(world)
            figures["private_mb_end"] = figures["private_mb_member_end"] + figures["private_mb_cell_end"]
            rows[name].append(figures)
            await world.close()
    return {f"{name}_of_a_group": medians(found) for name, found in rows.items()}


async def throughput(host, chosen, worlds, count, group, *, grade=True):
    """`count` episodes, `worlds` at a time, in groups; a dictionary of figures."""
    order = [chosen[number // group % len(chosen)] for number in range(count)]
    ready_ms, verdicts = [], []
    queue = iter(order)

    async def worker():
        for episode in queue:
            since = time.monotonic()
            world = await host.open(episode["task"])
            ready_ms.append(1e3 * (time.monotonic() - since))
            for cell in episode["cells"]:
                await world.execute(cell)
            if grade:
                verdicts.append((await world.grade()).success)
            await world.close()

    before, wall = cpu_by_part(host), time.monotonic()
    await asyncio.gather(*(worker() for _ in range(worlds)))
    wall = time.monotonic() - wall
    await asyncio.sleep(0.3)  # until the last ones are buried
    cpu = {part: seconds - before[part] for part, seconds in cpu_by_part(host).items()}
    return {
        "worlds": worlds,
        "episodes": count,
        "all_right": all(verdicts),
        "episodes_per_second": round(count / wall, 2),
        "core_ms_per_episode": round(1e3 * sum(cpu.values()) / count, 1),
        **{f"core_ms_{name}": round(1e3 * seconds / count, 1) for name, seconds in cpu.items()},
        "ready_ms_asked_at_once": round(statistics.median(ready_ms[:worlds]), 1),
        "ready_ms_after_that": round(statistics.median(ready_ms[worlds:] or [0.0]), 1),
    }


async def memory(host, chosen, worlds, group):
    """Megabytes of `worlds` worlds before their last cell, and of the two processes that serve all."""

    async def played(episode):
        world = await host.open(episode["task"])
        for cell in episode["cells"][:-1]:
            await world.execute(cell)
        return world

    found = await asyncio.gather(*(played(chosen[number // group % len(chosen)]) for number in range(worlds)))
    own = sum(sum(private(world)) for world in found)
    shared = megabytes(host._host.process.process.pid, "Rss") + megabytes(host._grader._process.process.pid, "Rss")
    await asyncio.gather(*(world.close() for world in found))
    return {"worlds": worlds, "mb_worlds": round(own), "mb_host_and_grader": round(shared)}


async def costs(options, chosen, with_all):
    """What confinement and grading add to an episode: the run with everything less a run without one of them."""
    figures = {"core_ms_with_everything": with_all["core_ms_per_episode"]}
    host = await started(options)
    plain = await throughput(host, chosen, 8, options.episodes, options.group, grade=False)
    await host.close()
    with unconfined():
        host = await started(options)
    free = await throughput(host, chosen, 8, options.episodes, options.group)
    await host.close()
    figures["core_ms_without_grading"] = plain["core_ms_per_episode"]
    figures["core_ms_without_confinement"] = free["core_ms_per_episode"]
    figures["grading_costs"] = round(with_all["core_ms_per_episode"] - plain["core_ms_per_episode"], 1)
    figures["confinement_costs"] = round(with_all["core_ms_per_episode"] - free["core_ms_per_episode"], 1)
    return figures


def script(python, file, root, asked, *words):
    """A script of AppWorld's virtualenv on a view of the data, so that what it writes stays out of the data root."""
    with tempfile.TemporaryDirectory() as folder:
        view = Path(folder) / "root"
        view.mkdir()
        (view / "data").symlink_to(root / "full" / "data")
        done = subprocess.run(
            [python, file, view, folder, *words],
            input=json.dumps(asked).encode(),
            stdout=subprocess.PIPE,
            check=True,
            env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "PYTHONWARNINGS": "ignore"},
        )
    return json.loads(done.stdout)


def unmodified(options, chosen):
    """The engine as it is, one episode at a time in forks of a warm process: core-milliseconds compare."""
    count = options.unmodified
    told = script(options.python, UNMODIFIED, options.root, [chosen[at % len(chosen)] for at in range(count)])
    return {
        "episodes": count,
        "all_right": all(one["verdict"]["success"] for one in told["episodes"]),
        "episodes_per_second": round(count / told["wall_seconds"], 2),
        "core_ms_per_episode": round(1e3 * told["cpu_seconds"] / count, 1),
    }


async def run(options):
    chosen = episodes(options.root, options.tasks)
    result = {"cells": [len(one["cells"]) for one in chosen], "calls_written": [one["calls"] for one in chosen]}
    since = time.monotonic()
    host = await started(options)
    result |= {"start_seconds": round(time.monotonic() - since, 2), "guards": host.guards}
    try:
        await throughput(host, chosen, 2, len(chosen), 1)  # every task is in the grader
        if "ready" in options.parts:
            result["ready"] = await ready(host, chosen)
        if {"throughput", "costs"} & set(options.parts):
            worlds = options.worlds if "throughput" in options.parts else [8]
            result["throughput"] = [
                await throughput(host, chosen, count, max(options.episodes, 2 * count), options.group)
                for count in worlds
            ]
        if "memory" in options.parts:
            result["memory"] = [await memory(host, chosen, count, options.group) for count in options.worlds]
    finally:
        await host.close()
    if "ready" in options.parts:
        told = script(options.python, ENGINE, options.root, chosen, "5")
        result["ready"] |= {"cold_engine": medians([told["cold"]]), "fork_of_warm_engine": medians(told["warm"])}
    if "throughput" in options.parts:
        result["unmodified"] = unmodified(options, chosen)
    if "costs" in options.parts:
        with_all = next((one for one in result["throughput"] if one["worlds"] == 8), result["throughput"][0])
        result["costs"] = await costs(options, chosen, with_all)
    if "server" in options.parts:
        result["server"] = [
            await appworld_servers.measure(options.python, options.root, chosen, count, options.server_episodes)
            for count in options.servers
        ]
    return result | {"ratios": ratios(result)}


def ratios(result):
    """How many times better ours is."""
    found = {}
    if "ready" in result:
        ours = result["ready"]["next_of_a_group"]
        for name in ("cold_engine", "fork_of_warm_engine"):
            for key in ("ready_ms", "private_mb_ready", "private_mb_end"):
                found[f"{key}_{name}"] = round(result["ready"][name][key] / ours[key], 1)
    if "unmodified" in result:
        ours = min(one["core_ms_per_episode"] for one in result["throughput"])
        found["core_ms_unmodified"] = round(result["unmodified"]["core_ms_per_episode"] / ours, 1)
    for server in result.get("server", []):
        name = f"{server['servers']}_servers"
        for ours in result.get("throughput", []):
            if ours["worlds"] == server["servers"]:
                rate = ours["episodes_per_second"] / server["episodes_per_second"]
                found[f"episodes_per_second_{name}"] = round(rate, 1)
        for ours in result.get("memory", []):
            if ours["worlds"] == server["servers"]:
                found[f"mb_{name}"] = round(server["mb"] / (ours["mb_worlds"] + ours["mb_host_and_grader"]), 1)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="python of AppWorld's virtualenv")
    parser.add_argument("--root", type=Path, required=True, help="data root with full/ and episode/")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument(
        "--worlds", type=int, nargs="+", default=[1, 8, 32, 128], help="worlds at once, one measurement each"
    )
    parser.add_argument("--episodes", type=int, default=96, help="episodes per measurement, or two a world if more")
    parser.add_argument("--group", type=int, default=6, help="members of a group")
    parser.add_argument("--tasks", type=int, default=6, help="different tasks")
    parser.add_argument("--unmodified", type=int, default=12, help="episodes on the unmodified engine")
    parser.add_argument(
        "--servers", type=int, nargs="+", default=[1, 8], help="AppWorld's servers; each is 0.3 GB, and 9 s of a core"
    )
    parser.add_argument("--server-episodes", type=int, default=16, help="episodes per measurement of the servers")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    configure("bench")
    result = asyncio.run(run(options))
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for name, figures in result.items():
        for line in figures if isinstance(figures, list) and name not in {"cells", "calls_written"} else [figures]:
            sys.stdout.write(f"{name} {line}\n")


if __name__ == "__main__":
    main()
