import subprocess
import sys

import pytest

from actor.world import install
from common.errors import RunError, UsageError


@pytest.fixture
def steps(monkeypatch, tmp_path):
    """An empty cache folder, and the commands that the installation would run."""
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path))
    ran = []

    def pretend(command, folder, failure):
        ran.append(command)
        if "venv" in command:
            python = folder / "venv" / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.touch()

    monkeypatch.setattr(install, "_run", pretend)
    return ran


def test_what_is_installed_answers_with_its_version(appworld_python):
    code = "import importlib.metadata as m, pydantic; print(m.version('appworld'), pydantic.VERSION.split('.')[0])"
    done = subprocess.run([appworld_python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [install.APPWORLD_VERSION, "1"]


def test_a_finished_installation_is_not_touched(steps, tmp_path):
    python = install.appworld_python()
    assert python == tmp_path / f"appworld-{install.APPWORLD_VERSION}" / "venv" / "bin" / "python"
    assert len(steps) == 3
    assert install.appworld_python() == python
    assert len(steps) == 3


def test_an_interrupted_installation_is_begun_again_from_nothing(steps, tmp_path):
    left = tmp_path / f"appworld-{install.APPWORLD_VERSION}" / "venv" / "half"
    left.mkdir(parents=True)
    install.appworld_python()
    assert not left.exists()
    assert [f"appworld=={install.APPWORLD_VERSION}" in command for command in steps] == [False, True, False]


def test_an_installation_that_lost_its_python_is_made_again(steps):
    install.appworld_python().unlink()
    install.appworld_python()
    assert len(steps) == 6


def test_every_step_is_told_to_whom_it_may_concern(steps):
    told = []
    install.appworld_python(progress=told.append)
    assert [line.split()[0] for line in told] == ["making", "installing", "unpacking", "done"]


def test_without_a_network_one_line_says_so(tmp_path):
    script = "print('ERROR: No matching distribution found for appworld'); raise SystemExit(1)"
    with pytest.raises(UsageError, match="the package index cannot be reached") as caught:
        install._run([sys.executable, "-c", script], tmp_path, "pip could not install AppWorld")
    assert "\n" not in str(caught.value)


def test_a_failing_step_says_what_it_said_last(tmp_path):
    script = "print(*range(9), sep='\\n'); raise SystemExit('no space left on device')"
    with pytest.raises(RunError, match=r"pip failed: 5 \| 6 \| 7 \| 8 \| no space left on device"):
        install._run([sys.executable, "-c", script], tmp_path, "pip failed")


def test_nothing_is_written_outside_the_folder(tmp_path):
    script = "import os; assert os.environ['APPWORLD_CACHE'].startswith(os.getcwd()), os.environ['APPWORLD_CACHE']"
    install._run([sys.executable, "-c", script], tmp_path, "it would write elsewhere")
