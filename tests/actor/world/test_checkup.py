"""`loop world check` says of a root all that can be said without playing its tasks."""

import json

import pytest
from official_data import make_official

from actor.world import checkup, cli, install
from common.errors import RunError

TASKS = ("likeSong_1", "alarmTime_1")


@pytest.fixture
def data(tmp_path, world_root, monkeypatch):
    python = install.appworld_python()
    monkeypatch.setattr(checkup, "appworld_python", lambda: python)
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "cache"))
    made = make_official(tmp_path / "appworld", world_root, TASKS)
    for file in (made / "data" / "datasets").iterdir():
        if not file.read_text().strip():
            file.unlink()
    return made


def test_every_fault_is_told_and_the_command_fails(data, capsys, monkeypatch):
    monkeypatch.setattr(checkup, "WorldHost", None)  # no engine is started on a root with faults
    for name in ("likeSong_1/dbs/venmo.jsonl", "alarmTime_1/ground_truth/answer.json"):
        (data / "data" / "tasks" / name).unlink()
    (data / "data" / "version.txt").write_text("9")
    assert cli.main(["check", "--root", str(data), "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["official"], facts["tasks"], facts["scenarios"]) == (True, 2, 2)
    assert [problem.split()[0] for problem in facts["problems"][-2:]] == ["alarmTime_1:", "likeSong_1:"]
    assert len(facts["problems"]) == 4
    assert cli.main(["check", "--root", str(data)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("AppWorld's own data, 2 tasks of 2 scenarios")
    assert [line.strip() for line in told[1:]] == facts["problems"]


def test_an_engine_that_does_not_start_is_a_fault(data, capsys, monkeypatch):
    class Broken:
        @staticmethod
        async def start(*_):
            raise RunError("actor.world.host did not start: No module named 'munch'")

    monkeypatch.setattr(checkup, "WorldHost", Broken)
    assert cli.main(["check", "--root", str(data), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == [
        "actor.world.host did not start: No module named 'munch'"
    ]


@pytest.mark.slow
def test_a_whole_root_is_said_to_be_whole_and_its_first_tasks_are_played(data, capsys):
    assert cli.main(["check", "--root", str(data), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["problems"] == []
    assert facts["engine"]["played"] == ["likeSong_1", "alarmTime_1"]
    assert "limits" in facts["engine"]["guards"]
