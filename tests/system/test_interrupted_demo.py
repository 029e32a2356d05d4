"""`loop demo`, interrupted and resumed. Minutes long: `pytest -m slow tests/system/test_interrupted_demo.py`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = {
    "learner.rollout.steps": 4,
    "learner.rollout.groups_per_step": 3,
    "learner.warm_start.steps": 300,
    "demo.demonstrations": 300,
    "learner.evaluation.temperatures": 0.0,
}
LONGEST_SECONDS = 900


# a shell's background job ignores SIGINT; a terminal's foreground job, which this stands for, does not
FOREGROUND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from common.cli import main
sys.exit(main(["demo", "--json", *sys.argv[1:]]))
"""


def demo(*words):
    command = [sys.executable, "-c", FOREGROUND, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def processes_naming(run):
    """Ids of the processes whose command line names a run's folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(run) in words and int(folder.name) != os.getpid():
            found.append((int(folder.name), words.replace("\0", " ")))
    return found


def steps_made(run):
    file = run / "metrics.jsonl"
    return file.read_text().count('"event":"step"') if file.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(2 * LONGEST_SECONDS)
def test_a_demo_that_is_interrupted_ends_at_once_and_goes_on_with_resume(tmp_path, world_root):
    run = tmp_path / "run"
    options = [word for key, value in SMALL.items() for word in (f"--{key}", value)]
    process = demo("--run.folder", run, "--world.root", world_root, *options)
    deadline = time.monotonic() + LONGEST_SECONDS
    while steps_made(run) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    interrupted = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert time.monotonic() - interrupted < 10
    assert processes_naming(run) == []
    books = subprocess.run(
        [sys.executable, "-m", "common.cli", "ledger", str(run), "--json"], capture_output=True, text=True, check=False
    )
    assert json.loads(books.stdout)["balanced"] is True

    resumed = demo("--resume", run)
    output, _ = resumed.communicate(timeout=LONGEST_SECONDS)
    result = json.loads(output)
    assert result["versions"] >= 4
    assert result["success_before"] is not None
    assert result["success_after"] is not None
    assert resumed.returncode == (0 if result["success_after"] > result["success_before"] else 1)
    assert (run / "curve.png").stat().st_size > 1000
    assert processes_naming(run) == []
