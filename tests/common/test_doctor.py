"""`loop doctor`: its lines, its JSON, its exit codes; and that a broken part costs its line alone."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from common import cli, doctor, doctor_machine, doctor_metrics, doctor_python, log
from common.finding import Check, Finding, error, lacking, ok, warning


@pytest.fixture
def sides(monkeypatch):
    """Sides that check what a test puts there; the machine is passed over."""
    lines = {"actor": [Check("a", lambda: ok("fine"))], "learner": [Check("l", lambda: ok("fine"))]}
    asked = {}

    def side(name):
        def checks(loaded, *, wanted, alone):
            asked[name] = (loaded["actor"].name, wanted, alone)
            return lines[name]

        return SimpleNamespace(checks=checks)

    for name in lines:
        monkeypatch.setitem(sys.modules, f"side_{name}", side(name))
    monkeypatch.setattr(doctor, "SIDES", {name: f"side_{name}" for name in lines})
    monkeypatch.setattr(doctor_machine, "checks", lambda _: [])
    monkeypatch.setattr(doctor_metrics, "metrics_checks", lambda *_: [])
    monkeypatch.setattr(doctor_python, "checks", lambda: [Check("python", lambda: ok("3.11"))])
    return lines, asked


def test_without_an_error_it_ends_with_0(sides, capsys):
    assert doctor.main([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok       python                 3.11",
        "ok       a                      fine",
        "ok       l                      fine",
        "3 checks: 0 errors, 0 warnings",
    ]


def test_a_warning_is_no_error_and_has_its_remedy_below(sides, capsys):
    sides[0]["actor"] = [Check("disk", lambda: warning("4 GiB", "make room"))]
    assert doctor.main(["--actor"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "warning  disk                   4 GiB",
        f"{'':<31} -> make room",
        "2 checks: 0 errors, 1 warnings",
    ]


def test_an_error_ends_with_1_and_stands_in_the_json(sides, capsys):
    sides[0]["learner"] = [Check("keys", lambda: error("mode 0644", "chmod 600 it"))]
    assert doctor.main(["--json", "--learner"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["ok"], facts["sides"], facts["errors"], facts["warnings"]) == (False, ["learner"], 1, 0)
    line = facts["checks"][-1]
    assert line.pop("seconds") >= 0
    assert line == {"check": "keys", "state": "error", "text": "mode 0644", "remedy": "chmod 600 it"}


def test_a_check_that_breaks_down_is_an_error_and_the_others_are_made(sides, capsys):
    sides[0]["actor"] = [Check("bad", lambda: 1 / 0), Check("good", lambda: ok("fine"))]
    assert doctor.main(["--actor"]) == 1
    out = capsys.readouterr().out
    assert "the check itself broke down: ZeroDivisionError" in out
    assert "ok       good" in out


def test_a_side_that_cannot_be_imported_is_a_line(sides, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "SIDES", {"actor": "side_that_lacks", "learner": "side_learner"})
    assert doctor.main([]) == 1
    out = capsys.readouterr().out
    assert "its checks cannot be made: ModuleNotFoundError: No module named 'side_that_lacks'" in out
    assert "ok       l " in out


def test_without_its_packages_it_says_so_and_asks_nothing_else(sides, capsys, monkeypatch):
    monkeypatch.setattr(doctor_python, "checks", lambda: [Check("packages", lambda: error("numpy lacks", "install"))])
    monkeypatch.setattr(doctor, "_understand", None)
    assert doctor.main(["--json"]) == 1
    assert [line["check"] for line in json.loads(capsys.readouterr().out)["checks"]] == ["packages"]


@pytest.mark.parametrize(
    ("words", "wanted", "alone"),
    [([], False, False), (["--json"], False, False), (["--actor"], True, True), (["--actor.name", "b"], True, False)],
)
def test_what_a_run_needs_is_wanted_once_anything_is_said_of_one(sides, words, wanted, alone):
    doctor.main(words)
    assert sides[1]["actor"][1:] == (wanted, alone)
    assert lacking("no key", "make one", wanted=wanted).state == ("error" if wanted else "warning")


@pytest.mark.parametrize("words", [["--actor", "--learner"], ["--jsn"], ["--config", "no-such.yaml"], ["word"]])
def test_wrong_words_end_with_2(words, capsys):
    assert cli.main(["doctor", *words]) == 2
    assert capsys.readouterr().err.startswith("loop doctor: ")


def test_what_is_not_well_has_a_remedy_and_nothing_else_has():
    for wrong in (("ok", "x", "do"), ("error", "x", "")):
        with pytest.raises(AssertionError):
            Finding(*wrong)


def test_help_tells_the_sides():
    done = subprocess.run(
        [sys.executable, "-m", "common.cli", "doctor", "--help"], capture_output=True, text=True, check=True
    )
    assert "usage: loop doctor" in done.stdout
    assert {"--actor", "--learner", "--json"} <= set(done.stdout.split())


def test_what_its_checks_log_is_not_printed(sides, capsys):
    def logging():
        log.get_logger("x").error("keys_unreadable", reason="z")
        return ok("fine")

    sides[0]["actor"] = [Check("a", logging)]
    doctor.main(["--actor"])
    printed = capsys.readouterr()
    assert (printed.err, "keys_unreadable" in printed.out) == ("", False)


@pytest.mark.slow
def test_on_a_machine_that_can_run_the_demo_every_check_is_made_and_none_is_an_error(tmp_path, world_root):
    command = [sys.executable, "-m", "common.cli", "doctor", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    facts = json.loads(done.stdout)
    assert [line for line in facts["checks"] if line["state"] == "error"] == []
    assert (done.returncode, facts["sides"]) == (0, ["actor", "learner"])
    names = [line["check"] for line in facts["checks"]]
    assert len(set(names)) == len(names) >= 31
