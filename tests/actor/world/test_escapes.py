"""Ways out of a confined process, as root and as an ordinary user: what is claimed to be guarded is attacked."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import escapes
import pytest

TOP = Path(__file__).parents[3]
GUARDS = ["limits", "no-network", "no-programs", "own-files"]
x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86-64's")


@pytest.fixture(
    scope="module",
    params=[("root", "namespaces"), ("root", "none"), ("ordinary", "namespaces"), ("ordinary", "none")],
    ids="-".join,
)
def confined(request, tmp_path_factory):
    """A process that confined itself, its guards, and what it got past."""
    user, namespaces = request.param
    if user == "root" and os.geteuid() != 0:
        pytest.skip("needs root")
    folder = tmp_path_factory.mktemp("confined")
    (folder / "secret").write_text("s3cr3t")
    (folder / "scratch").mkdir()
    made_here = [path for path in folder.parents if Path(tempfile.gettempdir()) in path.parents]
    for path in (*made_here, folder, folder / "scratch"):
        path.chmod(0o777)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("confined.py"), folder, user, namespaces],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PYTHONPATH": str(TOP), "PATH": os.defpath},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return {"user": user, **json.loads(done.stdout)}


def test_all_guards_are_on_and_held_when_they_were_attacked(confined):
    expected = [*GUARDS, "own-uid"] if confined["user"] == "root" else GUARDS
    assert confined["claimed"] == expected
    assert confined["held"] == expected


@x86
def test_every_way_out_is_refused_by_the_kernel(confined):
    found = {name: tuple(went) for name, went in confined["calls"].items()}
    assert set(found) == set(escapes.CALLS)
    assert {name: went for name, went in found.items() if went != (-1, 1)} == {}


def test_files_of_the_machine_and_of_others_are_out_of_reach(confined):
    assert len(confined["files"]) == 6
    assert {path for path, found in confined["files"].items() if not isinstance(found, str)} == set()
