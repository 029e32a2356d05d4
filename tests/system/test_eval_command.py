"""`loop eval` for real: vLLM on a small policy, real worlds, AppWorld's own evaluation beside. Minutes long."""

import json
import os
import signal

import pytest
from system.conftest import run_loop, until
from system.footprint import descendants, role_of

from common.processes import Children


def evaluated(model, world_root, out, *words):
    options = ("--config", "configs/tiny.yaml", "--world.root", world_root, "--out", out, "--json", *words)
    return json.loads(run_loop("eval", "--checkpoint", model, "--dataset", "dev", *options).stdout)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_policy_is_evaluated_and_appworlds_own_evaluation_agrees(small_policy, world_root, tmp_path):
    tasks = (world_root / "full" / "data" / "datasets" / "dev.txt").read_text().split()
    result = evaluated(small_policy, world_root, tmp_path / "out")
    assert (result["tasks"], result["episodes"], result["lost"]) == (len(tasks), len(tasks), [])
    assert result["max_turns"] == 7  # as the configuration's run evaluates
    assert result["appworld"]["agrees"] is True
    solved = [task for task in tasks if result["by_task"][task]["episodes"][0]["success"]]
    assert result["tgc"] == pytest.approx(len(solved) / len(tasks), abs=1e-6)
    low, high = result["tgc_interval"]
    assert 0 <= low <= result["tgc"] <= high <= 1
    assert {one["difficulty"] for one in result["by_task"].values()} == set(map(int, result["by_difficulty"]))
    (experiment,) = (tmp_path / "out" / "experiments" / "outputs").iterdir()
    report = json.loads((experiment / "evaluations" / "dev.json").read_text())
    assert {task: told["success"] for task, told in report["individual"].items()} == {
        task: task in solved for task in tasks
    }
    assert all((experiment / "tasks" / task / "evaluation" / "report.md").is_file() for task in tasks)
    assert not list((world_root / "full" / "data").rglob("__pycache__"))

    # asked again, nothing is played again; after a cut the rest alone
    episodes = tmp_path / "out" / "episodes.jsonl"
    before = episodes.read_text()
    again = evaluated(small_policy, world_root, tmp_path / "out", "--evaluate.cross_check", "false")
    assert episodes.read_text() == before
    assert again["by_task"] == result["by_task"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_version_of_a_run_is_held_against_its_probe_and_evaluated(finished_run, world_root, tmp_path):
    words = ("--difficulty", "1", "--rollouts", "2", "--temperature", "1")
    result = evaluated(f"{finished_run}@1", world_root, tmp_path / "out", *words)
    assert (result["policy_version"], result["lost"]) == (1, [])
    assert result["episodes"] == 2 * result["tasks"]
    assert result["by_difficulty"].keys() == {"1"}
    assert result["appworld"]["agrees"] is True
    assert len(result["appworld"]["experiments"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_evaluation_whose_engine_is_killed_starts_it_again_and_loses_nothing(small_policy, world_root, tmp_path):
    children, out = Children(), tmp_path / "out"
    options = ("--config", "configs/tiny.yaml", "--world.root", world_root, "--out", out, "--json")
    words = ["eval", "--checkpoint", small_policy, "--dataset", "test_normal", *options]
    output = tmp_path / "eval.out"

    def episodes():
        file = out / "episodes.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    try:
        process = children.start("eval", ["common.cli", *map(str, words)], output=output)
        until(children, tmp_path, episodes)
        (engine,) = (pid for pid in descendants([process.pid]) if role_of(pid) == "engine")
        os.kill(engine, signal.SIGKILL)
        until(children, tmp_path, children.ended)
        assert children.ended() == {"eval": 0}
    finally:
        children.stop(8.0)
    said = output.read_text()
    assert said.count("engine_failed") == 1
    result = json.loads(said.splitlines()[-1])
    tasks = (world_root / "full" / "data" / "datasets" / "test_normal.txt").read_text().split()
    assert (result["episodes"], result["lost"]) == (len(tasks), [])
    assert sorted(one["task_id"] for one in episodes()) == sorted(tasks)
    assert result["appworld"]["agrees"] is True
