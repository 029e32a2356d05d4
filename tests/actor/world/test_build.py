import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest

from actor.world import build as building
from actor.world import people, relay
from actor.world.build import BuildArguments, build, check_world, world_hash
from actor.world.scenarios import CHALLENGE, TRAIN, UNSEEN
from common.errors import RunError, UsageError


def test_data_sets_and_tasks_agree(world_root):
    data = world_root / "episode" / "data"
    ids = {file.stem: file.read_text().split() for file in (data / "datasets").glob("*.txt")}
    assert {name: len(found) for name, found in ids.items()} == {
        "train": 4 * len(TRAIN),
        "dev": len(TRAIN),
        "test_normal": len(TRAIN + UNSEEN),
        "test_challenge": len(CHALLENGE),
    }
    assert sorted(chain(*ids.values())) == sorted(folder.name for folder in (data / "tasks").iterdir())


def test_the_episodes_side_holds_all_but_the_ground_truth(world_root):
    def files(side, *, truth):
        data = world_root / side / "data"
        found = {path.relative_to(data) for path in data.rglob("*") if path.is_file()}
        return {path for path in found if truth or "ground_truth" not in path.parts}

    assert files("episode", truth=True) == files("full", truth=False)
    assert not list((world_root / "episode").rglob("*ground_truth*"))
    assert not list((world_root / "episode").rglob("solution*"))


def test_the_side_with_the_tests_is_closed_to_others(world_root):
    assert (world_root / "full").stat().st_mode & 0o777 == 0o700


def test_every_task_has_a_database_per_app_and_tests(world_root):
    for folder in (world_root / "full" / "data" / "tasks").iterdir():
        assert len(list((folder / "dbs").glob("*.jsonl"))) == 12
        truth = folder / "ground_truth"
        test_data = json.loads((truth / "test_data.json").read_text())
        assert all(test["requirement"] in (truth / "evaluation.py").read_text() for test in test_data)
        assert json.loads((truth / "solution.json").read_text())["cells"]


def test_every_app_has_base_data_that_is_small(world_root):
    base = world_root / "full" / "data" / "base_dbs"
    for app in people.ACCOUNTS:
        with closing(sqlite3.connect(base / f"{app}.db")) as database:
            assert database.execute("SELECT COUNT(*) FROM users").fetchone()[0] == people.PEOPLE
        assert (base / f"{app}.db").stat().st_size < 2**20
    held = {"amazon": "products", "gmail": "emails", "file_system": "directories", "splitwise": "expenses"}
    for app, table in {**held, "todoist": "tasks", "phone": "contacts", "spotify": "songs"}.items():
        with closing(sqlite3.connect(base / f"{app}.db")) as database:
            assert database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] >= 16


def test_a_world_that_is_there_is_not_built_again(world_root, monkeypatch):
    monkeypatch.setattr(relay, "run_module", lambda *_: pytest.fail("it was built again"))
    assert build(BuildArguments(train=4, dev=1, test=1, unseen=1, challenge=1)) == world_root


def test_the_hash_follows_arguments_and_sources(monkeypatch, tmp_path):
    plain = world_hash(BuildArguments())
    assert plain == world_hash(BuildArguments(seed=1))
    assert plain != world_hash(BuildArguments(seed=2))
    assert plain != world_hash(BuildArguments(train=7))
    monkeypatch.setattr(building, "GENERATOR", ("people.py",))
    assert plain != world_hash(BuildArguments())


def test_a_folder_that_is_no_root_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match=f"{tmp_path} is not a data root of a world: world.json is missing"):
        check_world(tmp_path)


def test_a_cache_path_that_the_engine_would_misread_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "in-memory-cache"))
    with pytest.raises(UsageError, match="must not contain the word 'memory'"):
        build(BuildArguments())


def test_a_build_that_fails_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path))
    monkeypatch.setattr(building, "appworld_python", lambda: sys.executable)

    def fail(python, module, words, failure):
        raise RunError(f"{failure}: the reference solution of likeSong_1 fails")

    monkeypatch.setattr(relay, "run_module", fail)
    with pytest.raises(RunError, match="the world could not be built: the reference solution of likeSong_1 fails"):
        build(BuildArguments())
    assert [path.name for path in (tmp_path / "worlds").iterdir()] == [f"{world_hash(BuildArguments())}.lock"]


def test_a_module_that_dies_is_reported_in_one_line_with_its_last_words():
    with pytest.raises(RunError, match=r"it failed: .*No module named actor.world.nothing") as caught:
        relay.run_module(sys.executable, "actor.world.nothing", [], "it failed")
    assert "\n" not in str(caught.value)


def test_what_a_killed_build_left_is_removed(monkeypatch, tmp_path):
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path))
    monkeypatch.setattr(building, "appworld_python", lambda: sys.executable)
    left = tmp_path / "worlds" / f"{world_hash(BuildArguments())}.abc" / "world" / "full"
    left.mkdir(parents=True)

    def make(python, module, words, failure):
        assert not left.exists()
        truth = Path(words[0]) / "full" / "data" / "tasks" / "a_1" / "ground_truth"
        truth.mkdir(parents=True)
        (truth / "answer.json").write_text("1")
        return {"tasks": 1}

    monkeypatch.setattr(relay, "run_module", make)
    root = build(BuildArguments())
    assert [path.name for path in (root / "episode" / "data" / "tasks" / "a_1").iterdir()] == []
    assert check_world(root) == root


BROKEN = """
import sys
from dataclasses import replace
from pathlib import Path
from actor.world import generate, plan, scenarios
from actor.world.scenarios.form import Choice
{change}
sys.exit(generate.main(sys.argv[1:]))
"""
WRONG_SOLUTION = """
wrong = Choice(right="state", wrong=(("city", 1),), chance=0.5)
scenario = scenarios.TRAIN[0]
broken = replace(scenario, choices={**scenario.choices, "field": wrong})
plan.TRAIN, plan.UNSEEN, plan.CHALLENGE = (broken,), (), ()
"""
PAID_FOR_NOTHING = """
import importlib.util
source = Path(sys.argv[1]) / "generous.py"
source.write_text('def generous(*, test, **_):\\n    with test("anything will do"):\\n        pass\\n')
spec = importlib.util.spec_from_file_location("generous", source)
module = importlib.util.module_from_spec(spec)
sys.modules["generous"] = module
spec.loader.exec_module(module)
plan.TRAIN, plan.UNSEEN, plan.CHALLENGE = (replace(scenarios.TRAIN[0], evaluate=module.generous),), (), ()
"""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        # of the small world every solution was played when it was built: in the default run it would be told
        pytest.param(
            WRONG_SOLUTION,
            "the reference solution of addressCity_1 fails ['the answer is right'",
            marks=pytest.mark.slow,
        ),
        (PAID_FOR_NOTHING, "doing nothing in addressCity_1 passes ['anything will do']"),
    ],
    ids=["a wrong solution", "a reward for nothing"],
)
def test_a_task_that_is_not_as_it_must_be_fails_the_build(appworld_python, tmp_path, change, reason):
    sizes = {"train": 1, "dev": 0, "test_normal": 0, "unseen": 0, "test_challenge": 0}
    request = json.dumps({"seed": 1, "sizes": sizes, "workers": 1})
    done = subprocess.run(
        [appworld_python, "-c", BROKEN.replace("{change}", change), tmp_path, request],
        env={"PYTHONPATH": str(relay.PROJECT), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["reason"].startswith(reason)
