"""A world with planted faults is built and verified: each fault is found, and named."""

import contextlib
import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from actor.world import asides, relay
from actor.world.cli import main
from actor.world.verify_report import print_report, summary, verify_root
from common.errors import UsageError

WEAK_TESTS = """
import json


def easy(*, test, private_data, models, ground_truth_answer, **_):
    given = json.loads(models.end.supervisor.Task.all()[0].answer)
    with test("there is an answer"):
        test.case(given in private_data["candidates"], "==", True)
    with test("and an untouched world"):
        test.case(given in private_data["candidates"], "==", True)
        test.case(models.changed_model_names(), "==", set())


def blind(*, test, private_data, models, **_):
    added, _, _ = models.changed_records("simple_note.Note")
    with test("there is a new note of that title"):
        test.case([row.title for row in added], "==", [private_data["title"]])
    with test("a note was added, and the task was completed without an answer"):
        test.case([row.content for row in added], "==", [private_data["content"]])
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", None)
"""
PLANT = """
import importlib.util, json, sys
from dataclasses import replace
from pathlib import Path
from actor.world import generate, plan, scenarios, verify
spec = importlib.util.spec_from_file_location("weak", Path(sys.argv[1]).parent / "weak.py")
weak = importlib.util.module_from_spec(spec)
sys.modules["weak"] = weak
spec.loader.exec_module(weak)
known = {scenario.name: scenario for scenario in scenarios.TRAIN}
plan.TRAIN = (
    replace(known["addressCity"], name="easyCity", evaluate=weak.easy),
    replace(known["newNote"], name="blindNote", evaluate=weak.blind),
    known["cardYear"],
)
plan.UNSEEN = plan.CHALLENGE = ()
verify.AT_BUILD = json.loads(sys.argv[3])
sys.exit(generate.main(sys.argv[1:3]))
"""

NOTHING = {"wrong": 0, "own": 0, "other": 0}


def plant(python, folder, *, trying, train):
    (folder / "weak.py").write_text(WEAK_TESTS)
    world = folder / "world"
    world.mkdir()
    sizes = {"train": train, "dev": 0, "test_normal": 0, "unseen": 0, "test_challenge": 0}
    request = json.dumps({"seed": 1, "sizes": sizes, "workers": 2})
    return world, subprocess.run(
        [python, "-c", PLANT, world, request, json.dumps(trying)],
        env={"PYTHONPATH": str(relay.PROJECT), "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def root(appworld_python, tmp_path_factory):
    """Two tasks each of three scenarios, built without a look at wrong ways; one task's tests are broken by hand."""
    world, done = plant(appworld_python, tmp_path_factory.mktemp("planted"), trying=NOTHING, train=2)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(world / "full", world / "episode")
    (world / "world.json").write_text("{}")
    (world / "full/data/datasets/dev.txt").write_text("cardYear_1\n")
    (world / "full/data/tasks/cardYear_2/ground_truth/evaluation.py").write_text("def evaluate(:\n")
    return world


@pytest.fixture(scope="module")
def report(root):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["verify", "--root", str(root), "--json"]) == 1
    return json.loads(out.getvalue())


def row(report, scenario):
    return next(row for row in report["scenarios"] if row["scenario"] == scenario)


def test_a_task_that_is_as_it_must_be_passes_every_trial(report):
    found = row(report, "cardYear")
    assert found["solution"] == [1, 1]
    assert found["no-op"] == [2, 2]
    assert found["wrong"] == [3, 3]
    assert found["collateral"][0] == found["collateral"][1] >= 1
    assert not [one for one in report["wrong"] if one["task_id"] == "cardYear_1"]


def test_tests_that_accept_a_wrong_answer_are_caught(report):
    caught = [one for one in report["wrong"] if one["task_id"].startswith("easyCity")]
    assert {one["kind"] for one in caught} == {"wrong"}
    assert {one["what"].split(":")[0] for one in caught} == {"which", "another answer"}
    assert caught[0]["passes"] == ["there is an answer", "and an untouched world"]
    assert row(report, "easyCity")["wrong"] == [2, 6]


def test_tests_that_are_blind_to_collateral_damage_are_caught(report):
    caught = [one for one in report["wrong"] if one["task_id"].startswith("blindNote")]
    assert {one["kind"] for one in caught} == {"collateral"}
    well, of = row(report, "blindNote")["collateral"]
    assert of - well == len(caught) >= 2
    assert row(report, "blindNote")["solution"] == [2, 2]


def test_a_task_whose_tests_are_broken_is_named_and_the_others_go_on(report):
    broken = [one for one in report["wrong"] if one["kind"] == "broken"]
    assert [one["task_id"] for one in broken] == ["cardYear_2"]
    assert broken[0]["what"].startswith("SyntaxError")
    assert report["tasks"] == 6


def test_one_data_set_can_be_verified_alone(root, monkeypatch):
    def answer(python, module, words, failure):
        assert json.loads(words[2])["task_ids"] == ["cardYear_1"]
        Path(words[1]).write_text("[]")

    monkeypatch.setattr(relay, "run_module", answer)
    assert verify_root(root, "dev")["tasks"] == 0


def test_a_person_reads_a_row_per_scenario_and_a_line_per_fault(report, capsys):
    print_report(report)
    told = " ".join(capsys.readouterr().out.split())
    assert "cardYear │ 2 │ 1 of 1 │ 2 of 2 │ 3 of 3" in told
    assert "cardYear_2 broken: SyntaxError" in told
    assert f"6 tasks, {report['episodes']} episodes in {report['seconds']} s: {len(report['wrong'])} not as" in told


def test_a_data_set_that_the_root_lacks_is_refused_by_name(root):
    with pytest.raises(UsageError, match="has no data set 'nonsense'; it has dev, "):
        verify_root(root, "nonsense")


def test_what_holds_no_solution_is_said_not_to_be_verified():
    trial = {"kind": "no-op", "what": "", "turns": [], "success": False, "passes": [], "failures": ["a"]}
    found = summary([{"task_id": "a_1", "trials": [{**trial, "as_it_must": True}]}])
    assert found["wrong"] == []
    assert found["unverified"] == [
        {"reason": "its ground truth holds no solution: only doing nothing was tried", "tasks": 1}
    ]


@pytest.mark.slow
def test_a_build_refuses_a_task_whose_tests_accept_what_they_must_not(appworld_python, tmp_path):
    _, done = plant(appworld_python, tmp_path, trying={"wrong": None, "own": 3, "other": 0}, train=1)
    assert done.returncode == 1, done.stderr
    reason = json.loads(done.stdout.splitlines()[-1])["reason"]
    assert reason.startswith(("a wrong way passes all tests of easyCity_1: ", "collateral damage passes all tests of "))
    assert "\n" not in reason


def test_every_app_has_several_kinds_of_damage_that_a_cell_can_do():
    for app in ("simple_note", "phone", "spotify", "venmo", "file_system", "todoist", "splitwise", "amazon", "gmail"):
        own = [aside for aside in asides.ASIDES if aside.app == app]
        assert len({aside.what for aside in own}) == len(own) >= 3
        for aside in own:
            compile(aside.code, aside.what, "exec")


@pytest.mark.slow
def test_the_whole_default_world_is_as_it_must_be(appworld_python, capsys):
    from actor.world.build import BuildArguments, build

    report = verify_root(Path(build(BuildArguments())))
    with capsys.disabled():
        kinds = {kind: [sum(row[kind][i] for row in report["scenarios"]) for i in (0, 1)] for kind in KINDS}
        print(f"\n{report['tasks']} tasks, {report['episodes']} episodes, {report['seconds']} s: {kinds}")
    assert report["wrong"] == []
    assert report["unverified"] == []
    idle = {what: counts for what, counts in report["damage"].items() if counts[0] == counts[1]}
    assert idle == {}, "damage that never did any"


KINDS = ("solution", "no-op", "wrong", "collateral")
