"""The engine as it is, for the benchmark: a cold world, then worlds of forks of a warm process. AppWorld's virtualenv.

    PYTHON engine_worlds.py ROOT SCRATCH COUNT < episodes.json > figures.json

The cold world counts from the start of the process. The forks are of that process after it closed its world: imports
and all that the engine keeps are there, but no world is.
"""

import json
import os
import re
import sys
import time
from pathlib import Path


def now():
    return time.clock_gettime(time.CLOCK_MONOTONIC)  # an open world freezes the other clocks


def since_start():
    """Seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def private_megabytes():
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(kb) for kb in re.findall(r"^Private_\w+:\s+(\d+)", text, re.MULTILINE)) / 1024


def play(world, episode):
    ready = private_megabytes()
    for cell in episode["cells"]:
        world.execute(cell)
    return {"private_mb_ready": ready, "private_mb_end": private_megabytes()}


def forked(episode, name):
    from appworld import AppWorld  # a process caches the root when it imports the engine

    read, write = os.pipe()
    started = now()
    pid = os.fork()
    if pid == 0:
        world = AppWorld(task_id=episode["task"], experiment_name=name)
        figures = {"ready_ms": 1e3 * (now() - started), **play(world, episode)}
        os.write(write, json.dumps(figures).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def main():
    root, scratch, count = sys.argv[1:4]
    os.environ.update(APPWORLD_ROOT=root, APPWORLD_CACHE=scratch, IPYTHONDIR=scratch, HOME=scratch)
    os.chdir(scratch)
    from appworld import AppWorld

    episodes = json.load(sys.stdin)
    world = AppWorld(task_id=episodes[0]["task"], experiment_name="cold")
    cold = {"ready_ms": 1e3 * since_start(), **play(world, episodes[0])}
    world.close()
    warm = [forked(episodes[at % len(episodes)], f"warm{at}") for at in range(int(count))]
    json.dump({"cold": cold, "warm": warm}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # the engine's threads would be waited for


if __name__ == "__main__":
    main()
