"""Work shared out between forked processes, on the standard library alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actor.world.share import in_child, share

ROOT = Path(__file__).parents[3]
ENDLESS = """
import os, time
from actor.world.share import share

said = []

def job(item):
    if not said:
        said.append(os.write(1, b"%d\\n" % os.getpid()))  # at once, so that no line of the other is within
    time.sleep(0.01)

share("jobs", range(100_000), 2, job)
"""


def alive(pid):
    """Whether a process runs: one that ended and was not yet taken off the kernel's table does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_results_come_in_the_order_of_their_items(capsys):
    assert share("squares", range(7), 3, lambda item: item * item) == [0, 1, 4, 9, 16, 25, 36]
    assert '"done": 7, "of": 7' in capsys.readouterr().out


def test_what_a_job_raises_is_raised_here():
    def fail():
        raise RuntimeError("no such scenario")

    with pytest.raises(RuntimeError, match="no such scenario"):
        in_child(fail)


def test_workers_end_when_the_process_that_shared_the_work_was_killed():
    process = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    workers = set()
    while len(workers) < 2:
        workers.add(int(process.stdout.readline()))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive the process that they work for"
        os.sched_yield()
