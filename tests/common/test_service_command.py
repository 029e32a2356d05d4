"""`loop service`: what it writes, what it refuses in one line, and that it touches nothing but its own."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

import common.service
from common import cli
from common.keys import new_keys
from common.units import ACTOR, LEARNER, TARGET


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A folder with a configuration and keys, from which `loop service` is run; a systemd 255 with namespaces."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(common.service, "systemd_version", lambda: 255)
    monkeypatch.setattr(common.service, "gives_users_namespaces", lambda: True)
    monkeypatch.setattr(common.service, "has_gpus", lambda: False)
    monkeypatch.setattr(common.service, "TEMPORARY", ())  # this folder itself may lie in /tmp
    for name in ("learner", "actor-0"):
        new_keys(Path("keys"), name)
    write_config(tmp_path)
    return tmp_path


def write_config(folder, **sections):
    (folder / "run.yaml").write_text(yaml.safe_dump({"run": {"folder": "runs/first"}, **sections}))


def service(*words):
    return cli.main(["service", *words])


def installed(machine, *words):
    """The units that an install writes, by name."""
    assert service("install", "--user", "--config", "run.yaml", *words) == 0
    return {file.name: file.read_text() for file in sorted((machine / "config/systemd/user").iterdir())}


def settings(unit):
    """A unit's lines as name and values."""
    found = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def refused(capsys, *words):
    """The one line with which a command is refused."""
    assert service(*words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    return told.err


def test_the_parts_are_those_whose_keys_are_here(machine, capsys):
    assert set(installed(machine)) == {LEARNER, ACTOR, TARGET}
    told = capsys.readouterr().out
    assert "systemctl --user enable --now loop.target loop-actor@0.service loop-learner.service" in told
    (machine / "keys" / "learner.secret").unlink()
    capsys.readouterr()
    installed(machine)
    assert "enable --now loop.target loop-actor@0.service\n" in capsys.readouterr().out


def test_units_have_the_paths_of_this_machine(machine):
    units = installed(machine)
    learner, actor = settings(units[LEARNER]), settings(units[ACTOR])
    python = f"{sys.executable} -m common.cli"
    assert learner["ExecStart"] == [f"{python} learner --config {machine}/run.yaml --resume"]
    assert actor["ExecStart"] == [f"{python} actor --config {machine}/run.yaml --actor.name actor-%i"]
    assert learner["WorkingDirectory"] == [str(machine)]
    assert learner["ReadWritePaths"] == [f"{machine}/runs/first {machine}/cache"]
    assert learner["LoadCredential"] == [f"learner.secret:{machine}/keys/learner.secret"]
    assert f"actor-%i.secret:{machine}/keys/actor-%i.secret" in actor["LoadCredential"]
    assert f"LOOP_CACHE={machine}/cache" in learner["Environment"]
    assert (machine / "runs/first").is_dir()


def test_a_service_is_told_watched_restarted_and_drained(machine):
    write_config(machine, actor={"drain_seconds": 100.0, "flush_seconds": 20.0})
    units = installed(machine)
    for unit in (units[LEARNER], units[ACTOR]):
        found = settings(unit)
        assert found["Type"] == ["notify"]
        assert found["NotifyAccess"] == ["main"]
        assert found["KillMode"] == ["mixed"]
        assert found["Restart"] == ["on-failure"]
        assert found["RestartPreventExitStatus"] == ["2"]
        assert found["RestartMaxDelaySec"] == ["5min"]
        assert found["StartLimitIntervalSec"] == ["0"]
        assert "WatchdogSec" in found
    assert settings(units[ACTOR])["TimeoutStopSec"] == ["150"]  # more than the drain and the flush


def test_an_older_systemd_is_not_told_what_it_does_not_know(machine, monkeypatch):
    monkeypatch.setattr(common.service, "systemd_version", lambda: 252)
    found = settings(installed(machine)[LEARNER])
    assert "RestartSteps" not in found
    assert found["RestartSec"] == ["30s"]


def test_no_secret_stands_in_a_unit(machine):
    secrets = [file.read_text().strip() for file in (machine / "keys").glob("*.secret")]
    assert len(secrets) == 2
    assert not any(secret in unit for unit in installed(machine).values() for secret in secrets)


def test_options_of_the_configuration_go_into_the_commands_that_know_them(machine):
    units = installed(machine, "--actor.episodes", "7", "--learner.optimizer.learning_rate=1e-4", "--run.seed", "3")
    assert settings(units[LEARNER])["ExecStart"][0].endswith(
        "--learner.optimizer.learning_rate=1e-4 --run.seed=3 --resume"
    )
    assert "--actor.episodes=7 --run.seed=3 --actor.name" in settings(units[ACTOR])["ExecStart"][0]


def test_names_with_blanks_and_signs_are_quoted_as_systemd_reads_them(machine):
    write_config(machine, run={"folder": '50% of "my" $runs'})
    learner = settings(installed(machine, "--run.folder", "a b/$x")[LEARNER])
    assert '"--run.folder=a b/$$x"' in learner["ExecStart"][0]
    assert learner["ReadWritePaths"] == [f'"{machine}/a b/$x" {machine}/cache']
    learner = settings(installed(machine)[LEARNER])
    assert learner["ReadWritePaths"] == [f'"{machine}/50%% of \\"my\\" $runs" {machine}/cache']


def test_a_dry_run_prints_the_units_and_writes_nothing(machine, capsys):
    assert service("install", "--system", "--config", "run.yaml", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "# /etc/systemd/system/loop-learner.service" in told
    assert "ExecStart=" in told
    assert "systemctl enable --now loop.target" in told
    assert not (machine / "runs").exists()
    assert not (machine / "config").exists()


def test_with_json_it_is_one_object(machine, capsys):
    assert service("install", "--user", "--config", "run.yaml", "learner", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["written"]
    assert [Path(file).name for file in told["units"]] == [LEARNER, TARGET]
    assert told["next"][0] == "systemctl --user daemon-reload"


def test_installing_again_replaces_and_says_to_restart(machine, capsys):
    installed(machine, "learner")
    assert "try-restart" not in capsys.readouterr().out
    write_config(machine, link={"heartbeat_seconds": 3.0})
    installed(machine, "learner", "--run.seed", "5")
    assert "systemctl --user try-restart loop-learner.service" in capsys.readouterr().out


def test_a_missing_configuration_is_refused(machine, capsys):
    assert "--config FILE" in refused(capsys, "install", "--user")
    assert "none.yaml: No such file" in refused(capsys, "install", "--user", "--config", "none.yaml")
    assert "did you mean '--run.seed'" in refused(
        capsys, "install", "--user", "--config", "run.yaml", "--rum.seed", "1"
    )


def test_a_missing_key_is_refused_with_what_to_do(machine, capsys):
    install = ("install", "--user", "--config", "run.yaml")
    line = refused(capsys, *install, "actor@1")
    assert "keys/actor-1.secret: no key there" in line
    assert "loop keys new actor-1 --folder keys" in line
    (machine / "keys" / "learner.secret").chmod(0o644)
    assert "mode 0644 lets others read a secret key" in refused(capsys, *install, "learner")
    assert "has no secret key" in refused(capsys, *install, "--link.keys", "elsewhere")
    assert not (machine / "config").exists()


def test_what_is_no_part_of_a_run_is_refused(machine, capsys):
    for part in ("trainer", "actor@", "actor@a/b", "actor"):
        assert f"'{part}' is no part of a run" in refused(capsys, "install", "--user", "--config", "run.yaml", part)


def test_an_actor_without_ports_is_refused(machine, capsys):
    write_config(machine, link={"port": 0})
    assert "0 names none" in refused(capsys, "install", "--user", "--config", "run.yaml", "actor@0")


def test_an_insecure_run_has_no_credentials(machine):
    write_config(machine, link={"insecure": True})
    for key in (machine / "keys").rglob("*.*"):
        key.unlink()
    assert "LoadCredential" not in settings(installed(machine)[ACTOR])


def test_a_unit_that_somebody_else_wrote_or_changed_is_neither_replaced_nor_removed(machine, capsys):
    folder = machine / "config/systemd/user"
    installed(machine)
    (folder / LEARNER).write_text((folder / LEARNER).read_text() + "Nice=5\n")
    capsys.readouterr()
    assert "a drop-in" in refused(capsys, "install", "--user", "--config", "run.yaml")
    assert service("uninstall", "--user") == 0
    assert (
        f"left config/systemd/user/{LEARNER}".replace("config", str(machine / "config"), 1) in capsys.readouterr().out
    )
    assert [file.name for file in folder.iterdir()] == [LEARNER]


def test_uninstall_removes_what_install_wrote_and_leaves_runs_and_drop_ins(machine, capsys):
    folder = machine / "config/systemd/user"
    installed(machine)
    (folder / f"{LEARNER}.d").mkdir()
    (folder / "other.service").write_text("[Service]\n")
    assert service("uninstall", "--user", "--dry-run") == 0
    assert (folder / LEARNER).exists()
    assert service("uninstall", "--user") == 0
    assert sorted(file.name for file in folder.iterdir()) == [f"{LEARNER}.d", "other.service"]
    assert (machine / "runs/first").is_dir()
    assert "systemctl --user daemon-reload" in capsys.readouterr().out
    assert service("uninstall", "--user") == 0
    assert "nothing of ours" in capsys.readouterr().out


def test_what_is_enabled_is_not_removed_behind_systemds_back(machine, capsys):
    installed(machine)
    wanted = machine / "config/systemd/user/loop.target.wants"
    wanted.mkdir()
    (wanted / "loop-actor@0.service").symlink_to(wanted.parent / ACTOR)
    capsys.readouterr()
    line = refused(capsys, "uninstall", "--user")
    assert "run `systemctl --user disable --now loop-actor@0.service` first" in line
    assert (wanted.parent / ACTOR).exists()


def test_run_as_goes_with_the_machines_systemd_alone(machine, capsys):
    assert "--run-as" in refused(capsys, "install", "--user", "--config", "run.yaml", "--run-as", "loop")
    assert service("install", "--system", "--config", "run.yaml", "--run-as", "loop", "--dry-run") == 0
    assert "User=loop\n" in capsys.readouterr().out


def test_without_user_namespaces_a_users_units_say_what_they_leave_out(machine, monkeypatch):
    monkeypatch.setattr(common.service, "gives_users_namespaces", lambda: False)
    unit = installed(machine)[LEARNER]
    assert "ProtectSystem" not in settings(unit)
    assert "are left out: this machine gives users none" in unit
    assert settings(unit)["NoNewPrivileges"] == ["yes"]


def test_what_lies_in_tmp_is_not_hidden_from_its_own_service(machine, monkeypatch):
    assert settings(installed(machine)[LEARNER])["PrivateTmp"] == ["yes"]
    monkeypatch.setattr(common.service, "TEMPORARY", (machine,))
    assert "PrivateTmp" not in settings(installed(machine)[LEARNER])


def test_gpus_are_not_hidden(machine, monkeypatch):
    assert settings(installed(machine)[ACTOR])["PrivateDevices"] == ["yes"]
    monkeypatch.setattr(common.service, "has_gpus", lambda: True)
    found = settings(installed(machine)[ACTOR])
    assert {"PrivateDevices", "ProtectClock"} & set(found) == set()
