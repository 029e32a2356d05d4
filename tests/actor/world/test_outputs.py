"""AppWorld's outputs layout: what the engine itself leaves, and what its own `evaluate` command makes of ours."""

import json
import os
import subprocess

import pytest
from mixed_plays import mixed, small_root
from test_equality import unmodified

from actor.world.client import WorldHost
from actor.world.outputs import Played, outputs_folder, prepare_outputs, write_outputs
from common.errors import UsageError


@pytest.fixture(scope="module")
def logging_host(worlds, world_config, appworld_python):
    host = worlds.run(WorldHost.start(world_config, appworld_python, worlds.root, log_calls=True))
    yield host
    worlds.run(host.close())


def play(worlds, host, task_id, cells):
    """An episode: what it did, and our verdict."""

    async def episode():
        world = await host.open(task_id)
        seen = [(cell, (await world.execute(cell)).text) for cell in cells]
        verdict = await world.grade()
        return Played(task_id, seen, world.changes, world.calls), verdict

    return worlds.run(episode())


def files_of(folder):
    return {
        str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.name != "model_hashes.json"
    }


def test_outputs_are_what_the_engine_leaves_and_its_own_command_agrees(worlds, logging_host, appworld_python, tmp_path):
    plays = mixed(worlds.root, worlds.tasks)
    root = small_root(tmp_path / "root", worlds.root, plays)
    prepare_outputs(tmp_path / "out", root)
    verdicts = {}
    for task_id, cells in plays.items():
        played, verdicts[task_id] = play(worlds, logging_host, task_id, cells)
        write_outputs(tmp_path / "out", root, "ours", played)
    assert [verdict.success for verdict in verdicts.values()] == [True, True, True, False, False, False]

    # the very files of the engine
    (tmp_path / "scratch").mkdir()
    episodes = [{"task": task_id, "cells": cells} for task_id, cells in plays.items()]
    unmodified(appworld_python, root, episodes, tmp_path / "scratch")
    for number, task_id in enumerate(plays):
        theirs = outputs_folder(root / "full", f"episode{number}", task_id)
        ours = outputs_folder(tmp_path / "out", "ours", task_id)
        expected, found = files_of(theirs), files_of(ours)
        assert found.keys() == expected.keys()
        for name, file in expected.items():
            assert file.is_dir() or found[name].read_bytes() == file.read_bytes(), (task_id, name)
        hashes = [json.loads((folder / "dbs" / "model_hashes.json").read_text()) for folder in (ours, theirs)]
        assert hashes[0] == {app: counts for app, counts in hashes[1].items() if counts}

    # and the verdicts of its command, task by task and in sum
    done = subprocess.run(
        [appworld_python.parent / "appworld", "evaluate", "ours", "mixed", "--root", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.defpath, "HOME": str(tmp_path), "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "out/experiments/outputs/ours/evaluations/mixed.json").read_text())
    for task_id, verdict in verdicts.items():
        told = report["individual"][task_id]
        assert told["success"] == verdict.success
        assert tuple(passed["requirement"] for passed in told["passes"]) == verdict.passes
        assert tuple(failed["requirement"] for failed in told["failures"]) == verdict.failures
    assert report["aggregate"] == {"task_goal_completion": 50.0, "scenario_goal_completion": 50.0}


def test_outputs_that_are_written_again_replace_the_ones_before(worlds, tmp_path):
    prepare_outputs(tmp_path, worlds.root)
    folder = write_outputs(tmp_path, worlds.root, "e", Played(worlds.tasks[0], [("print(1)", "1")]))
    (folder / "evaluation").mkdir()
    write_outputs(tmp_path, worlds.root, "e", Played(worlds.tasks[0], [("print(2)", "2\n")]))
    assert not (folder / "evaluation").exists()
    assert "print(2)\n```\n\n```\n2\n```" in (folder / "logs" / "environment_io.md").read_text()
    assert [path.name for path in folder.parent.iterdir()] == [worlds.tasks[0]]


def test_a_folder_with_other_data_is_no_place_for_outputs(worlds, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(UsageError, match="is there and is not the data root"):
        prepare_outputs(tmp_path, worlds.root)
    with pytest.raises(UsageError, match="'memory' in it"):
        prepare_outputs(tmp_path / "memory", worlds.root)
