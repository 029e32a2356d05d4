"""AppWorld's outputs layout: what the engine itself leaves, and what its own `evaluate` command makes of ours."""

import contextlib
import json
import os
import subprocess

import pytest
from mixed_plays import mixed, small_root
from test_equality import unmodified

from actor.engine import EngineFailure, RequestFailure
from actor.evaluation import Job, Parts, Records, Terms, play_all
from actor.policy import Sampled
from actor.world.client import WorldHost
from actor.world.cross_check import OfficialVerdict, differences
from actor.world.outputs import Played, outputs_folder, prepare_outputs, write_outputs
from common.errors import UsageError
from common.evaluation import summarise
from common.messages import Sampling


@pytest.fixture(scope="module")
def logging_host(worlds, world_config, appworld_python):
    host = worlds.run(WorldHost.start(world_config, appworld_python, worlds.root, log_calls=True))
    yield host
    worlds.run(host.close())


class Script:
    """Policy and prompt in one: the cells of each task, a turn each. A token is a task's number and a turn's."""

    freed_share = None

    def __init__(self, plays):
        self.tasks, self.plays = list(plays), plays

    def opening(self, instruction, supervisor):
        return [self.tasks.index(supervisor.task_id)]

    def observation(self, text, room, *, stopped=True):
        return [-1]

    def stub(self, *, stopped=True):
        return [-1]

    def code(self, sampled_ids):
        number, turn = divmod(sampled_ids[0], 1000)
        cells = self.plays[self.tasks[number]]
        return cells[turn] if turn < len(cells) else None

    def told(self, sampled_ids, output):
        return output or ""

    def has_stopped(self, sampled_ids):
        return True

    def episode(self):
        return contextlib.nullcontext()

    async def generate(self, ids, *, temperature, max_tokens, pinned=None, max_seconds=None):
        return Sampled([1000 * ids[0] + ids.count(-1)], [-0.5], [3], "stop")


def play(worlds, host, root, out, plays):
    """An evaluation of all of them; its finished episodes by task."""
    longest = max(len(cells) for cells in plays.values())
    sampling = Sampling(temperature=0.0, max_turns=longest, max_turn_tokens=5, max_context_tokens=900)
    terms = Terms(out, root, "ours", 3, sampling, longest=900, attempts=1, at_once=3)
    records, script = Records(out, {"name": "ours"}), Script(plays)
    parts = Parts(script, host, script, RequestFailure, EngineFailure)
    assert worlds.run(play_all([Job(0, task_id) for task_id in plays], terms, records, parts)) == []
    return {one.task_id: one for one in records.finished.values()}


def files_of(folder):
    return {
        str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.name != "model_hashes.json"
    }


def test_outputs_are_what_the_engine_leaves_and_its_own_command_agrees(worlds, logging_host, appworld_python, tmp_path):
    plays = mixed(worlds.root, worlds.tasks)
    root = small_root(tmp_path / "root", worlds.root, plays)
    prepare_outputs(tmp_path / "out", root)
    finished = play(worlds, logging_host, root, tmp_path / "out", plays)
    successes = [finished[task_id].success for task_id in plays]
    assert successes[:3] == [True, True, True]
    assert not any(successes[3:])

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
        env={
            "PATH": os.defpath,
            "HOME": str(tmp_path),
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",  # the world is other tests' too
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "out/experiments/outputs/ours/evaluations/mixed.json").read_text())
    for task_id, one in finished.items():
        told = report["individual"][task_id]
        assert told["success"] == one.success
        assert one.reward == len(told["passes"]) / told["num_tests"]
        assert tuple(failed["requirement"] for failed in told["failures"]) == one.failures
    figures = summarise([one.scored(1) for one in finished.values()])
    theirs = OfficialVerdict(
        {task_id: told["success"] for task_id, told in report["individual"].items()},
        report["aggregate"]["task_goal_completion"],
        report["aggregate"]["scenario_goal_completion"],
    )
    ours = {task_id: one.success for task_id, one in finished.items()}
    assert differences(ours, theirs, figures["tgc"], figures["sgc"]) == []
    assert 0 < figures["sgc"] < 1


def test_where_the_two_do_not_agree_is_named():
    theirs = OfficialVerdict({"a_1": True, "a_2": False}, 50.0, 0.0)
    assert differences({"a_1": True, "a_2": False}, theirs, 0.5, 0.0) == []
    assert differences({"a_1": False, "a_2": False}, theirs, 0.0, 0.0) == [
        "a_1: failed here, passed there",
        "TGC: 0.0 here, 50.0 there",
    ]
    assert differences({"b_1": False}, theirs, 0.5, 0.0) == ["b_1: failed here, not judged there"]


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
