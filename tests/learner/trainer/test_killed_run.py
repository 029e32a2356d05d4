"""A run killed at random instants and replayed from its journal ends bit for bit as one that was left alone."""

import os
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time

import pytest
import torch
from journal_building import Life, events, make_journalled_run, state_after

from learner.gateway import books


@pytest.fixture(autouse=True)
def as_processes_find_it(monkeypatch):
    """The processes that a test starts import what the test imports."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def straight(parent):
    """The same run, left alone; seconds of its steps."""
    folder = shutil.copytree(parent / "journalled", parent / "straight")
    life = Life(parent, folder)
    try:
        life.start_gateway()
        life.start_trainer()
        life.end_well()
    finally:
        life.clear()
    return folder, [sum(entry["seconds"].values()) for entry in events(folder, "trainer", "step_made")]


def killed(parent, seed, kills, seconds):
    """The run, killed `kills` times. Each instant is drawn: so many steps into the life of a trainer, and a moment."""
    folder = shutil.copytree(parent / "journalled", parent / f"killed{seed}")
    draw = random.Random(seed)
    life = Life(parent, folder)
    try:
        life.start_gateway()
        life.start_trainer()
        for _ in range(kills):
            victims = draw.choice([("trainer",), ("trainer",), ("gateway",), ("gateway", "trainer")])
            wait_for_instant(draw, life, seconds)
            life.kill(*victims)
            if "gateway" in victims:
                life.start_gateway()
            if "trainer" in victims:
                life.start_trainer()
        life.end_well()
    finally:
        life.clear()
    return folder


def wait_for_instant(draw, life, seconds):
    made = len(events(life.folder, "trainer", "step_made"))
    steps = draw.choice(["starting", 0, 0, 1, 2])
    if steps == "starting":
        time.sleep(draw.uniform(0.0, 1.0))
        return
    life.until(lambda: len(events(life.folder, "trainer", "model_loaded")) > life.loaded_before)
    life.until(lambda: len(events(life.folder, "trainer", "step_made")) >= made + steps)
    time.sleep(draw.uniform(0.0, 1.5 * seconds))


def rows(folder, query):
    database = sqlite3.connect(folder / "ledger.sqlite")
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def assert_ended_alike(folder, reference, steps):
    for step in range(steps + 1):
        (weights, moments, told), (true_weights, true_moments, true_told) = (
            state_after(one, step) for one in (folder, reference)
        )
        assert told == true_told
        for found, expected in ((weights, true_weights), (moments, true_moments)):
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected), f"after step {step}"
    # the groups of each step, what was trained on, what was not and why
    for query in (
        "SELECT group_id, step, state FROM groups",
        "SELECT lease_id, state, reason FROM leases",
        "SELECT step, version, trained, passed_over FROM steps",
    ):
        assert sorted(rows(folder, query)) == sorted(rows(reference, query))
    consumed = [name for step in range(steps + 1) for name in state_after(folder, step)[2]["consumed"]]
    assert len(consumed) == len(set(consumed)) > 0
    assert books.main([str(folder)]) == 0


@pytest.mark.parametrize(
    ("kills", "steps", "training"),
    [
        (3, 8, "lora"),
        pytest.param(24, 60, "full", marks=pytest.mark.slow),
        pytest.param(24, 60, "lora", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_random_instants_ends_bit_for_bit_as_one_that_was_not(tmp_path, kills, steps, training):
    parent = make_journalled_run(tmp_path, steps=steps, training=training, dropout=0.1)
    reference, seconds = straight(parent)
    folder = killed(parent, 1, kills, statistics.median(seconds))
    assert_ended_alike(folder, reference, steps)
    first, *_, last = (state_after(reference, step)[0] for step in range(steps + 1))
    assert not all(torch.equal(first[name], last[name]) for name in last)


def go_on(parent, folder):
    """`loop learner --resume`, which starts gateway and trainer itself."""
    words = ["--config", str(parent / "config.yaml"), "--run.folder", str(folder), "--resume"]
    with (folder / "learner.out").open("ab") as output:
        return subprocess.Popen([sys.executable, "-m", "common.cli", "learner", *words], stdout=output, stderr=output)


def until(condition, process):
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_whole_learner_killed_and_started_again_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    """Its parent is killed, or its trainer, or all three; those left end by themselves, and the next waits for them."""
    steps = 24
    parent = make_journalled_run(tmp_path, steps=steps)
    reference, seconds = straight(parent)
    folder = shutil.copytree(parent / "journalled", parent / "killed")
    draw = random.Random(2)
    for victims in (("trainer",), ("learner",), ("gateway", "trainer", "learner"), ("learner",)):
        loaded, made = (len(events(folder, "trainer", name)) for name in ("model_loaded", "step_made"))
        learner = go_on(parent, folder)
        try:
            until(lambda before=loaded: len(events(folder, "trainer", "model_loaded")) > before, learner)
            more = made + draw.choice([0, 1, 2])
            until(lambda enough=more: len(events(folder, "trainer", "step_made")) >= enough, learner)
            time.sleep(draw.uniform(0.0, 1.5 * statistics.median(seconds)))
            pids = {entry["name"]: entry["pid"] for entry in events(folder, "learner", "process_started")}
            for name in victims:
                os.kill(learner.pid if name == "learner" else pids[name], signal.SIGKILL)
            assert learner.wait(60) == (-signal.SIGKILL if "learner" in victims else 1)
        finally:
            learner.kill()
            learner.wait()
    # to its end; and once more, when there is nothing left to do
    for _ in range(2):
        assert go_on(parent, folder).wait(600) == 0
    assert_ended_alike(folder, reference, steps)
