"""systemd's own judgement of the units: it understands every line, and what they leave open is little.

Needs a systemd on the machine (`apt install systemd` will do, it need not run).
"""

import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest

from common.units import (
    ACTOR,
    LEARNER,
    TARGET,
    TEMPLATES,
    UNITS,
    Machine,
    Service,
    is_ours,
    render,
    systemd_version,
)

# systemd-analyze's exposure, from 0 (nothing open) to 10, at most. What is left of it: network, the user, for worlds
# namespaces and mounts; as root their capabilities, too.
EXPOSURE = {(LEARNER, "loop"): 1.9, (ACTOR, "loop"): 2.5, (LEARNER, "root"): 2.3, (ACTOR, "root"): 4.1}


def machine(**changed):
    given = {"system": True, "version": systemd_version(), "mounts": True, "gpus": False, "private_tmp": True}
    return Machine(**{**given, "user": "loop", "settings": Path("/etc/loop"), **changed})


def service(folder, **changed):
    (folder / "run.yaml").touch()
    given = {
        "command": ("/usr/bin/env", "-m", "common.cli", "actor", "--config", "run.yaml"),
        "environment": {"LOOP_CACHE": "/var/cache/loop", "ODD": 'a "b" % c'},
        "folder": folder,
        "config": folder / "run.yaml",
        "run": "first",
        "keys": folder / "keys",
        "insecure": False,
        "writable": (folder / "runs", folder / "a b"),
        "drain": 5,
        "stop": 35,
        "watchdog": "3min",
    }
    return Service(**{**given, **changed})


def write_all(folder, where):
    """All units as files."""
    for unit in UNITS:
        about = None if unit == TARGET else service(folder)
        (folder / unit).write_text(render(unit, where, about))


def analyzed(folder, *words):
    """What systemd-analyze prints, where there is one."""
    try:
        done = subprocess.run(
            ["systemd-analyze", *words],
            cwd=folder,
            env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("no systemd-analyze on this machine: apt install systemd")
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("system", [True, False])
def test_systemd_understands_every_line_of_every_unit(tmp_path, system):
    write_all(tmp_path, machine(system=system, user="root"))
    code, told = analyzed(tmp_path, *([] if system else ["--user"]), "verify", *(f"./{unit}" for unit in UNITS))
    # of the units that these stand beside on this machine nothing is said here
    own = [line for line in told.splitlines() if "loop" in line or str(tmp_path) in line]
    assert own == []
    assert code == 0, told


def test_a_line_that_systemd_does_not_understand_is_found(tmp_path):
    write_all(tmp_path, machine())
    (tmp_path / LEARNER).write_text((tmp_path / LEARNER).read_text().replace("KillMode=", "KillWay="))
    _, told = analyzed(tmp_path, "verify", f"./{LEARNER}")
    assert "KillWay" in told


@pytest.mark.parametrize(("unit", "user"), EXPOSURE)
def test_what_a_unit_leaves_open_is_little(tmp_path, unit, user):
    write_all(tmp_path, machine(user=user))
    _, told = analyzed(tmp_path, "security", "--offline=true", "--no-pager", f"./{unit}")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert found is not None, told
    assert float(found.group(1)) <= EXPOSURE[unit, user]


def test_worlds_may_make_the_namespaces_that_they_need_and_the_learner_none(tmp_path):
    learner, actor = (render(unit, machine(), service(tmp_path)) for unit in (LEARNER, ACTOR))
    assert "RestrictNamespaces=yes\n" in learner
    assert "RestrictNamespaces=user mnt net\n" in actor
    assert "@mount" not in learner
    assert "@mount landlock_create_ruleset" in actor


def test_there_is_always_a_place_for_temporary_files(tmp_path):
    for unit in (LEARNER, ACTOR):
        own, shared = (render(unit, machine(private_tmp=private), service(tmp_path)) for private in (True, False))
        assert "PrivateTmp=yes\n" in own
        assert "/var/tmp" not in own
        assert "\nPrivateTmp=" not in shared
        assert "ReadWritePaths=-/tmp -/var/tmp\n" in shared


def test_every_kind_of_machine_gets_its_units(tmp_path):
    for system, mounts, gpus, tmp, insecure, version in itertools.product([True, False], repeat=6):
        where = machine(system=system, mounts=mounts, gpus=gpus, private_tmp=tmp, version=255 if version else 0)
        for unit in (LEARNER, ACTOR):
            text = render(unit, where, service(tmp_path, insecure=insecure))
            assert is_ours(text)
            assert "{" not in text
            assert "\n\n\n" not in text
            assert ("User=loop\n" in text) == system
            assert ("\nRestartSteps=" in text) == version
            assert max(map(len, text.splitlines()[1:])) <= 200


def test_a_changed_or_foreign_file_is_told_from_ours(tmp_path):
    text = render(TARGET, machine())
    assert is_ours(text)
    assert not is_ours(text + "\n")
    assert not is_ours(text.replace("loop", "hoop"))
    assert not is_ours("[Unit]\n")
    assert not is_ours("")


def test_there_is_a_template_for_each_unit_and_each_part_is_used():
    names = {file.name for file in TEMPLATES.iterdir()}
    included = set(re.findall(r'include "([^"]+)"', "".join(file.read_text() for file in TEMPLATES.iterdir())))
    assert names == {f"{unit}.j2" for unit in UNITS} | included
