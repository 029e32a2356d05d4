"""Real parts for the system tests: a small policy made by the real commands, and processes that end with the test."""

import subprocess
import sys

import pytest

from common.processes import Children


def run_loop(*words, check=True):
    """Run a `loop` command to its end."""
    done = subprocess.run([sys.executable, "-m", "common.cli", *map(str, words)], capture_output=True, text=True, check=False)
    if check:
        assert done.returncode == 0, f"loop {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="session")
def small_policy(world_root, tmp_path_factory):
    """A policy that was warm-started for a moment: it writes code, right now and then."""
    folder = tmp_path_factory.mktemp("policy")
    demonstrations, model = folder / "demonstrations.jsonl", folder / "model"
    run_loop("world", "demonstrate", "--root", world_root, "--out", demonstrations, "--count", 400, "--seed", 1)
    options = ("--learner.warm_start.steps", 400, "--run.folder", folder / "run")
    run_loop("learner", "warm-start", "--demonstrations", demonstrations, "--out", model, *options)
    return model


@pytest.fixture
def children():
    """Processes by name, ended when the test ends."""
    started = Children()
    yield started
    started.stop(8.0)
