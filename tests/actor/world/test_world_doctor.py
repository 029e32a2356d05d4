"""What the doctor says of AppWorld's virtualenv, of a data root and of the guards: as they are, and broken."""

from __future__ import annotations

import json
import os

import pytest

from actor.world import doctor, install
from actor.world.build import BuildArguments, world_hash
from actor.world.config import WorldConfig


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("APPWORLD_ROOT", raising=False)
    return tmp_path / "cache"


def pretend_python(cache, script):
    """An installation whose python is a shell script."""
    folder = cache / f"appworld-{install.APPWORLD_VERSION}"
    python = folder / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    (folder / install.MARKER).write_text("{}")
    return folder


def test_the_virtualenv_of_this_machine_is_well(appworld_python):
    found = doctor.appworld()
    assert (found.state, found.text.split()[0]) == ("ok", install.APPWORLD_VERSION)


@pytest.mark.parametrize("half", [False, True])
def test_a_virtualenv_that_lacks_is_a_warning_with_its_command(empty_cache, half):
    if half:
        pretend_python(empty_cache, "exit 0").joinpath(install.MARKER).unlink()
    found = doctor.appworld()
    assert (found.state, found.text.startswith("half installed" if half else "not installed yet")) == ("warning", True)
    assert "loop world install" in found.remedy


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo \"No module named 'munch'\" >&2; exit 1", "No module named 'munch' (exit code 1)"),
        ("""echo '{"appworld": "0.2"}'""", "holds version 0.2, wanted is"),
    ],
)
def test_a_broken_virtualenv_is_an_error(empty_cache, script, said):
    folder = pretend_python(empty_cache, script)
    found = doctor.appworld()
    assert found.state == "error"
    assert said in found.text
    assert found.remedy == f"remove {folder} and run `loop world install`"


def test_a_built_world_is_well(world_root, monkeypatch):
    monkeypatch.delenv("APPWORLD_ROOT", raising=False)
    found = doctor.data(WorldConfig(root=world_root))
    assert (found.state, found.text.split(",")[0]) == ("ok", "a built world")


def test_no_world_yet_is_a_warning_with_its_command(empty_cache):
    found = doctor.data(WorldConfig())
    assert found.state == "warning"
    assert "loop world build" in found.remedy


def test_the_world_of_the_cache_is_found_and_what_lacks_of_it(empty_cache, world_root):
    root = empty_cache / "worlds" / world_hash(BuildArguments())
    root.parent.mkdir(parents=True)
    root.symlink_to(world_root)
    assert doctor.data(WorldConfig()).state == "ok"


def test_a_folder_that_is_no_data_root_is_an_error(tmp_path):
    found = doctor.data(WorldConfig(root=tmp_path))
    assert (found.state, "is not a data root" in found.text) == ("error", True)


def test_a_root_with_a_broken_database_is_an_error(tmp_path, world_root):
    root = tmp_path / "root"
    for part in ("full", "episode"):
        (root / part / "data").mkdir(parents=True)
        for entry in (world_root / part / "data").iterdir():
            (root / part / "data" / entry.name).symlink_to(entry)
    (root / "world.json").write_text("{}")
    assert doctor.data(WorldConfig(root=root)).state == "ok"
    databases = root / "full" / "data" / "base_dbs"
    databases.unlink()
    databases.mkdir()
    found = doctor.data(WorldConfig(root=root))
    assert found.state == "error"
    assert "admin.db is missing" in found.text
    assert f"loop world check --root {root}" in found.remedy


def test_another_provider_is_imported_and_no_more(monkeypatch):
    lines = doctor.checks(WorldConfig(provider="guessing:Guessing"))
    assert [check.name for check in lines] == ["worlds"]
    assert lines[0].run().state == "ok"
    assert doctor.provider(WorldConfig(provider="guessing:NoSuch")).state == "error"


def test_the_guards_of_this_machine_are_really_tried():
    found = doctor.confinement(WorldConfig())
    assert (found.state, "limits" in found.text) == ("ok", True)


@pytest.mark.parametrize(("required", "state"), [(False, "warning"), (True, "error")])
def test_a_guard_that_did_not_hold_is_told_with_what_would_provide_it(monkeypatch, required, state):
    said = json.dumps({"on": ["limits", "own-files"], "held": ["limits", "no-network", "no-programs"]})
    monkeypatch.setattr(doctor, "run", lambda *_: (said + "\n", ""))
    found = doctor.confinement(WorldConfig(require_confinement=required))
    assert (found.state, found.text) == (state, "model-written code is not kept in: without own-files")
    assert "landlock" in found.remedy


def test_a_trial_that_cannot_be_made_is_an_error(monkeypatch):
    monkeypatch.setattr(doctor, "run", lambda *_: ("", "PermissionError (exit code 1)"))
    found = doctor.confinement(WorldConfig())
    assert (found.state, found.text) == ("error", "the trial broke down: PermissionError (exit code 1)")


def test_without_the_filter_on_system_calls_programs_can_be_started(tmp_path):
    """The trial itself, with a guard that is said to be on and is not."""
    package = doctor.PACKAGE
    settings = {"scratch": str(tmp_path), "memory_bytes": 256 << 20, "cpu_seconds": 60}
    boot = doctor.BOOT.replace("importlib.import_module(sys.argv[2]).main", "pretend(sys.argv[2])")
    planted = """
def pretend(name):
    trial = importlib.import_module(name)
    trial.sandbox.enter = lambda *_: ("limits", "no-programs")
    trial.sandbox.deny_is_possible = lambda: False
    return trial.main
"""
    head, _, last = boot.strip().rpartition("\n")
    words = [f"{head}\n{planted}\n{last}", str(package), "actor.world.trial", "1", json.dumps(settings)]
    tmp_path.chmod(0o755)
    said, failure = doctor.run([os.sys.executable, "-P", "-s", "-c", *words], 60.0, doctor.ENVIRONMENT)
    assert failure == ""
    assert "no-programs" not in json.loads(said)["held"]
