"""Nothing observable may differ from the unmodified engine: observations, verdicts, database changes, seeds."""

import json
import subprocess
from pathlib import Path

import pytest
import wide


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
    return json.loads(done.stdout)["episodes"]


def ours(worlds, episode):
    """The same shape of result, from our worlds."""

    async def play():
        world = await worlds.host.open(episode["task"])
        seen = [await world.execute(cell) for cell in episode["cells"]]
        verdict = await world.grade()
        changes, hashes = {}, {}
        for turn in map(json.loads, world._changes):
            hashes = turn["hashes"]
            for app, found in turn["changes"].items():
                changes.setdefault(app, []).extend(found)
        return {"seen": seen, "verdict": verdict, "changes": changes, "hashes": hashes}

    return worlds.run(play())


def assert_equal(mine, theirs):
    for observation, text in zip(mine["seen"], theirs["observations"], strict=True):
        assert observation.text == text
        assert observation.failed == text.startswith("Execution failed. Traceback:")
    assert mine["changes"] == theirs["changes"]
    if mine["changes"]:
        assert mine["hashes"] == {app: hashes for app, hashes in theirs["hashes"].items() if hashes}
    if mine["seen"]:
        assert mine["seen"][-1].completed == theirs["completed"]
    verdict = theirs["verdict"]
    assert mine["verdict"].success == verdict["success"]
    assert mine["verdict"].passes == tuple(passed["requirement"] for passed in verdict["passes"])
    assert mine["verdict"].failures == tuple(failed["requirement"] for failed in verdict["failures"])
    assert mine["verdict"].reward == len(verdict["passes"]) / verdict["num_tests"]


def compare(worlds, python, episodes, scratch):
    expected = unmodified(python, worlds.root, episodes, scratch)
    for episode, theirs in zip(episodes, expected, strict=True):
        assert_equal(ours(worlds, episode), theirs)


def test_some_tasks_and_odd_cells_play_as_on_the_unmodified_engine(worlds, appworld_python, tmp_path):
    chosen = [worlds.tasks[0], worlds.tasks[len(worlds.tasks) // 2]]
    episodes = [episode for task_id in chosen for episode in wide.solved(worlds.root, task_id)]
    episodes += wide.odd(worlds.root, worlds.tasks[-1], range(1, 2))
    compare(worlds, appworld_python, episodes, tmp_path)


@pytest.mark.slow
def test_every_scenario_and_every_api_play_as_on_the_unmodified_engine(worlds, appworld_python, tmp_path):
    scenarios = {task_id.rsplit("_", 1)[0]: task_id for task_id in worlds.tasks}
    episodes = [episode for task_id in scenarios.values() for episode in wide.solved(worlds.root, task_id)]
    episodes += wide.odd(worlds.root, worlds.tasks[0], range(4))
    compare(worlds, appworld_python, episodes, tmp_path)
