"""Plays episodes on the unmodified engine, each in a process of its own. Runs in AppWorld's virtualenv.

    PYTHON unmodified.py ROOT SCRATCH < episodes.json > results.json

Episodes: [{"task": "x_1", "cells": ["..."]}]. Results: {"episodes": observations, verdict and tracked changes by app
for each, "cpu_seconds": .., "wall_seconds": ..}, the times without the engine's start.
"""

import json
import os
import sys
import time
import traceback
from functools import partial
from pathlib import Path


def play(task_id, cells, name):
    from appworld import AppWorld  # a process caches the root when it imports the engine

    world = AppWorld(task_id=task_id, experiment_name=name)
    before = {app: len(changes) for app, changes in saved(world).items()}
    observations = [world.execute(cell) for cell in cells]
    completed = world.task_completed()
    changes = {app: found[before[app] :] for app, found in saved(world).items() if len(found) > before[app]}
    hashes = json.loads((Path(world.output_db_home_path_on_disk) / "model_hashes.json").read_text())
    world.close()
    return {"observations": observations, "completed": completed, "changes": changes, "hashes": hashes}


def saved(world):
    files = Path(world.output_db_home_path_on_disk).glob("*.jsonl")
    return {file.stem: [json.loads(line) for line in file.read_text().splitlines()] for file in files}


def grade(task_id, name):
    from appworld.evaluator import evaluate_task

    return evaluate_task(task_id, name, save_report=False).to_dict()


def in_child(job):
    """The engine holds one world a process: each job gets a fresh one, forked before any world was opened."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with os.fdopen(write, "w") as stream:
                json.dump(job(), stream)
            os._exit(0)
        except BaseException:  # noqa: BLE001  # nothing may run on in the child
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    assert os.waitpid(pid, 0)[1] == 0, "an episode failed on the unmodified engine"
    return json.loads(text)


def main():
    root, scratch = sys.argv[1:3]
    os.environ.update(APPWORLD_ROOT=root, APPWORLD_CACHE=scratch, IPYTHONDIR=scratch, HOME=scratch)
    os.chdir(scratch)
    from appworld.apps import get_all_apps
    from appworld.common.utils import import_apis_module

    for app in get_all_apps():
        import_apis_module(app)
    results = []
    started = cpu_seconds(), time.clock_gettime(time.CLOCK_MONOTONIC)
    for number, episode in enumerate(json.load(sys.stdin)):
        name = f"episode{number}"
        played = in_child(partial(play, episode["task"], episode["cells"], name))
        played["verdict"] = in_child(partial(grade, episode["task"], name))
        results.append(played)
    cpu, wall = cpu_seconds() - started[0], time.clock_gettime(time.CLOCK_MONOTONIC) - started[1]
    json.dump({"episodes": results, "cpu_seconds": cpu, "wall_seconds": wall}, sys.stdout)


def cpu_seconds():
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
