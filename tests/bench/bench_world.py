"""What a world costs: episodes a second, core-milliseconds an episode, time until ready, private memory.

    python tests/bench/bench_world.py --python APPWORLD_PYTHON --root DATA_ROOT [--json]

Episodes replay the reference solutions of tasks in groups of `--group`; the unmodified engine, forked per episode
from a warm process, plays some of the same ones in the same run.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from actor.world.client import WorldHost
from actor.world.config import WorldConfig
from common.log import configure

UNMODIFIED = Path(__file__).parents[1] / "actor" / "world" / "unmodified.py"
TICK = os.sysconf("SC_CLK_TCK")


def episodes(root, tasks):
    """The reference solutions of the tasks that take 4 turns or so, as plain cells."""
    folders = sorted((root / "full" / "data" / "tasks").iterdir())
    found = [
        {"task": folder.name, "cells": json.loads((folder / "ground_truth" / "solution.json").read_text())["cells"]}
        for folder in folders
    ]
    found.sort(key=lambda episode: (abs(len(episode["cells"]) - 4), episode["task"]))
    return found[:tasks]


def cpu_seconds(pid):
    """Of a process itself, and of its buried children."""
    fields = [int(field) for field in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]]
    return (fields[0] + fields[1]) / TICK, (fields[2] + fields[3]) / TICK


def cpu_by_part(host):
    """Opening and forking, the members with their cells, the grader, this process."""
    opening, members = cpu_seconds(host._host.process.pid)
    grading, _ = cpu_seconds(host._grader._process.process.pid)
    return {"opening": opening, "members": members, "grading": grading, "client": time.process_time()}


def private_megabytes(world):
    """Of a world's member process, and of its cell process."""
    memory = []
    for descriptor in world._pidfds:
        pid = re.search(r"^Pid:\s+(\d+)", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE)[1]
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        memory.append(sum(int(kb) for kb in re.findall(r"^Private_\w+:\s+(\d+)", text, re.MULTILINE)) / 1024)
    return memory


async def measure(host, chosen, worlds, group, count):
    """`count` episodes, `worlds` at a time, in groups; a dictionary of figures."""
    queue = [
        episode for number in range(0, count, group) for episode in [chosen[number // group % len(chosen)]] * group
    ][:count]
    ready, memory, verdicts = [], [], []

    async def worker():
        while queue:
            episode = queue.pop(0)
            started = time.monotonic()
            world = await host.open(episode["task"])
            ready.append(time.monotonic() - started)
            for cell in episode["cells"]:
                await world.execute(cell)
            if len(verdicts) % 7 == 0:
                memory.append(private_megabytes(world))
            verdicts.append((await world.grade()).success)

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
        "ready_ms_median": round(1e3 * statistics.median(ready), 1),
        "private_mb_member": round(statistics.median(one[0] for one in memory), 1),
        "private_mb_cell": round(statistics.median(one[1] for one in memory), 1),
    }


def unmodified(python, root, chosen, count):
    """The same figures for the engine as it is, one episode at a time: core-milliseconds compare."""
    asked = [chosen[number % len(chosen)] for number in range(count)]
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [python, UNMODIFIED, root / "full", scratch],
            input=json.dumps(asked).encode(),
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
        )
    told = json.loads(done.stdout)
    return {
        "episodes": count,
        "all_right": all(one["verdict"]["success"] for one in told["episodes"]),
        "episodes_per_second": round(count / told["wall_seconds"], 2),
        "core_ms_per_episode": round(1e3 * told["cpu_seconds"] / count, 1),
    }


async def run(options):
    chosen = episodes(options.root, options.tasks)
    config = WorldConfig(max_worlds=max(options.worlds), cell_seconds=100)
    started = time.monotonic()
    host = await WorldHost.start(config, options.python, options.root)
    result = {
        "start_seconds": round(time.monotonic() - started, 2),
        "guards": host.guards,
        "cells": [len(one["cells"]) for one in chosen],
    }
    try:
        result["ours"] = [
            await measure(host, chosen, worlds, options.group, options.episodes) for worlds in options.worlds
        ]
    finally:
        await host.close()
    result["unmodified"] = (
        unmodified(options.python, options.root, chosen, options.unmodified) if options.unmodified else None
    )
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="python of AppWorld's virtualenv")
    parser.add_argument("--root", type=Path, required=True, help="data root with full/ and episode/")
    parser.add_argument(
        "--worlds", type=int, nargs="+", default=[1, 8, 32], help="worlds at once, one measurement each"
    )
    parser.add_argument("--episodes", type=int, default=96, help="episodes per measurement")
    parser.add_argument("--group", type=int, default=6, help="members of a group")
    parser.add_argument("--tasks", type=int, default=6, help="different tasks")
    parser.add_argument("--unmodified", type=int, default=12, help="episodes on the unmodified engine")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    configure("bench")
    result = asyncio.run(run(options))
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for name, figures in result.items():
        for line in figures if name == "ours" else [figures]:
            sys.stdout.write(f"{name} {line}\n")


if __name__ == "__main__":
    main()
