"""Nothing observable may differ from the unmodified engine: observations, verdicts, traces, database changes, seeds.

An episode's result is one dictionary on both sides; `differences` says where two of them differ.
"""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import wide

from actor.world import process
from actor.world.client import WorldHost

PACKAGE = process.PACKAGE
# A defect in one file of ours: the file, what stands there, what is planted.
PLANTS = {
    "random_reseeded": ("engine.py", "random.setstate(self._random)", "pass"),
    "random_not_handed_back": ("cell.py", "if state == self.known:", "if True:"),
    "token_of_another_time": ("call.py", 'token = headers["Authorization"]', 'token = headers["Authorization"] + "x"'),
    "change_lost": ("engine.py", "found[self._seen[app] :]", "found[self._seen[app] + 1 :]"),
    "query_lost": ("call.py", "if query else", "if query and len(query) < 2 else"),
    "end_state_kept": ("grade.py", "start.backup(end)", "pass"),
    "hashes_lost": ("engine.py", "if values}}", "if not values}}"),
    "names_left": ("engine.py", "shells[0].user_ns.clear()", "shells[0]"),
    "guard_left_open": ("engine.py", "setattr(owner, name, function)", "pass"),
}


def unmodified(python, root, episodes, scratch):
    """What the engine itself makes of the episodes."""
    done = subprocess.run(
        [python, Path(__file__).with_name("unmodified.py"), root / "full", scratch],
        input=json.dumps(episodes).encode(),
        capture_output=True,
        check=False,
        env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return [
        {
            "observations": found["observations"],
            "failed": [text.startswith("Execution failed. Traceback:") for text in found["observations"]],
            "completed": found["completed"] if found["observations"] else False,
            "changes": found["changes"],
            "hashes": {app: hashes for app, hashes in found["hashes"].items() if hashes} if found["changes"] else {},
            "verdict": found["verdict"],
        }
        for found in json.loads(done.stdout)["episodes"]
    ]


async def ours(host, episode):
    """The same of one episode in our worlds."""
    world = await host.open(episode["task"])
    seen = [await world.execute(cell) for cell in episode["cells"]]
    sent = list(world._changes)
    verdict = await world.grade()
    changes, hashes = {}, {}
    for turn in map(json.loads, sent):
        hashes = turn["hashes"]
        for app, found in turn["changes"].items():
            changes.setdefault(app, []).extend(found)
    async with host._grader._turn:  # its words are a verdict's source, and have the traces as well
        told = (await host._grader._ask(episode["task"], sent))["verdict"]
    assert verdict.success == told["success"]
    assert verdict.passes == tuple(one["requirement"] for one in told["passes"])
    assert verdict.failures == tuple(one["requirement"] for one in told["failures"])
    assert verdict.reward == len(told["passes"]) / told["num_tests"]
    return {
        "observations": [observation.text for observation in seen],
        "failed": [observation.failed for observation in seen],
        "completed": seen[-1].completed if seen else False,
        "changes": changes,
        "hashes": hashes,
        "verdict": told,
    }


async def play(host, episodes):
    """All of them, eight at a time: they must not disturb each other."""
    room = asyncio.Semaphore(8)

    async def one(episode):
        async with room:
            return await ours(host, episode)

    return await asyncio.gather(*(one(episode) for episode in episodes))


def differences(mine, theirs):
    """Where the results of the episodes differ, a line each."""
    found = []
    for number, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        for key, theirs_there in other.items():
            for place, got, wanted in leaves(one[key], theirs_there, key):
                found.append(f"episode {number}, {place}: {str(got)[:300]!r} is {str(wanted)[:300]!r} there")
    return found


def leaves(got, wanted, place):
    if isinstance(wanted, list) and isinstance(got, list) and len(got) == len(wanted):
        for at, (one, other) in enumerate(zip(got, wanted, strict=True)):
            yield from leaves(one, other, f"{place}[{at}]")
    elif isinstance(wanted, dict) and isinstance(got, dict) and set(got) == set(wanted):
        for key, other in wanted.items():
            yield from leaves(got[key], other, f"{place}.{key}")
    elif got != wanted:
        yield place, got, wanted


def missing_apis(root, results):
    """Documented APIs that no observation of the results names at a line's start."""
    lines = {
        line.split(" ", 1)[0] for result in results for text in result["observations"] for line in text.split("\n")
    }
    return [
        f"{app}.{name}" for app, apis in wide.api_docs(root).items() for name in apis if f"{app}.{name}" not in lines
    ]


@pytest.fixture(autouse=True)
def patient(worlds, monkeypatch):
    """No cell is over its time, however busy the machine is: the unmodified engine has no such limit."""
    config = worlds.host.config.model_copy(update={"cell_seconds": 3000.0, "episode_seconds": 3000.0})
    monkeypatch.setattr(worlds.host, "config", config)


def test_some_tasks_every_api_and_odd_cells_play_as_on_the_unmodified_engine(worlds, appworld_python, tmp_path):
    first, middle, last = worlds.tasks[0], worlds.tasks[len(worlds.tasks) // 2], worlds.tasks[-1]
    episodes = wide.solved(worlds.root, first) + wide.plain(last) + wide.every_api(worlds.root, middle, range(1, 2))
    theirs = unmodified(appworld_python, worlds.root, episodes, tmp_path)
    mine = worlds.run(play(worlds.host, episodes))
    assert differences(mine, theirs) == []
    assert missing_apis(worlds.root, mine) == []


@pytest.mark.slow
def test_every_scenario_and_all_variants_play_as_on_the_unmodified_engine(worlds, appworld_python, tmp_path):
    scenarios = {task_id.rsplit("_", 1)[0]: task_id for task_id in worlds.tasks}
    episodes = [episode for task_id in scenarios.values() for episode in wide.solved(worlds.root, task_id)]
    for task_id in list(scenarios.values())[:3]:
        episodes += wide.plain(task_id) + wide.every_api(worlds.root, task_id, range(4))
    theirs = unmodified(appworld_python, worlds.root, episodes, tmp_path)
    mine = worlds.run(play(worlds.host, episodes))
    assert differences(mine, theirs) == []
    assert missing_apis(worlds.root, mine) == []


@pytest.fixture(scope="module")
def small(worlds, appworld_python, tmp_path_factory):
    """A few episodes and what the unmodified engine makes of them."""
    task_id = worlds.tasks[0]
    right, _, _, harmful, _ = wide.solved(worlds.root, task_id)
    guarded = [wide.PLAIN_CELLS[0], "import os\nprint(os.listdir('/'))", "open('x', 'w')"]
    episodes = [right, harmful, {"task": task_id, "cells": [*wide.CHANCE, *guarded]}]
    return episodes, unmodified(appworld_python, worlds.root, episodes, tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize(
    "plant",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in PLANTS if name != "random_reseeded"), "random_reseeded"],
)
def test_a_planted_difference_is_found(plant, small, worlds, tmp_path, monkeypatch):
    file, right, wrong = PLANTS[plant]
    package = tmp_path / "actor"
    shutil.copytree(PACKAGE, package)
    source = (package / "world" / file).read_text()
    assert right in source
    (package / "world" / file).write_text(source.replace(right, wrong))
    monkeypatch.setattr(process, "PACKAGE", package)
    episodes, theirs = small

    async def played():
        host = await WorldHost.start(worlds.host.config, worlds.host.python, worlds.root)
        try:
            return [await ours(host, episode) for episode in episodes]
        finally:
            await host.close()

    assert differences(asyncio.run(played()), theirs) != []
