"""What ends amid a real run, and what comes of it: engine, grader, world host, the actor itself. Minutes long.

`pytest -m slow tests/system/test_actor_ends.py`. Instants are made, not hit: a process that stands still (SIGSTOP)
keeps what waits for it where it is until the signal under test has been sent.
"""

import json
import os
import signal
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from system.conftest import assert_all_come_out_again
from system.footprint import descendants, role_of
from system.soaking import Soak

LOOK, SETTLED = 0.5, 16  # seconds between two looks at leases; as many the same: nothing goes on
WHOLE = {"learner__rollout__straggler_share": 1.0}  # no lease is dropped but for what is done to it here
ENGINE_DIED, LEFT = "engine failure", "signal"  # why leases came back
# a grader that stands still is not the actor's to kill here; cells that a busy machine cuts would not replay
PATIENT = {"world.grade_seconds": 900, "world.cell_seconds": 60}


def rows(run, query, *values):
    database = sqlite3.connect(f"file:{run / 'ledger.sqlite'}?mode=ro", uri=True, timeout=30)
    try:
        return database.execute(query, values).fetchall()
    finally:
        database.close()


def leased(soak):
    """Names of the leases that the actor has not fulfilled."""
    return {name for (name,) in rows(soak.run, "SELECT lease_id FROM leases WHERE state = 'leased'")}


def spooled(soak):
    """Names of the trajectories that the learner has not acknowledged."""
    file = soak.run / "actors" / "actor-0" / "spool.sqlite"
    database = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)
    try:
        return {name for (name,) in database.execute("SELECT trajectory_id FROM spool")}
    finally:
        database.close()


def fates(soak, names):
    """State, reason and its detail of each of these leases."""
    found = rows(soak.run, "SELECT lease_id, state, reason, detail FROM leases")
    return {name: tuple(rest) for name, *rest in found if name in names}


def newest_version(soak):
    return rows(soak.run, "SELECT MAX(version) FROM versions")[0][0]


def told(soak, event):
    """What the actor's log says under this name, in order."""
    lines = (soak.run / "logs" / "actor-0.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, filter(None, lines)) if line["event"] == event]


def last(soak, event):
    """The version that was named last so."""
    return told(soak, event)[-1]["policy_version"]


def until_told(soak, event, count):
    soak.until(lambda: len(told(soak, event)) >= count, f"{event}, {count} times")


def process_of(soak, role):
    """The id of the process of a role; None while there is none. What it forked has its name, and came later."""
    pids = descendants([process.pid for process in soak.processes.values()])
    return next((pid for pid in pids if role_of(pid) == role), None)


def the(soak, role):
    """The id of the process of a role that is there."""
    soak.until(lambda: process_of(soak, role), f"a {role}")
    return process_of(soak, role)


def another(soak, role, pid):
    soak.until(lambda: process_of(soak, role) not in (None, pid), f"another {role}")
    return process_of(soak, role)


@contextmanager
def standing_still(pid):
    """A process that does nothing meanwhile; it may be ended there."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)


def until_nothing_goes_on(soak):
    """Wait until the leases held stay as they are; those."""
    looks = []

    def same():
        time.sleep(LOOK)
        looks.append(leased(soak))
        last = looks[-SETTLED:]
        return len(last) == SETTLED and last[0] and all(look == last[0] for look in last)

    soak.until(same, "leases that nothing comes of")
    return looks[-1]


def two_more_steps(soak):
    soak.until_steps(soak.count("step") + 2)


def assert_trained_once(soak, arrived):
    """What had arrived comes to its end, and nothing is trained twice."""
    soak.until(lambda: {fate[0] for fate in fates(soak, arrived).values()} <= {"trained", "dropped"}, "all trained")
    twice = "SELECT lease_id FROM story WHERE event = 'trained' GROUP BY lease_id HAVING COUNT(*) > 1"
    assert rows(soak.run, twice) == []
    ends = {fate[:2] for fate in fates(soak, arrived).values()}
    assert ends <= {("trained", ""), ("dropped", "no_signal"), ("dropped", "stale")}
    both = "SELECT (SELECT COUNT(*) FROM leases WHERE state = 'trained'), (SELECT SUM(trained) FROM steps)"
    (trained, by_step) = rows(soak.run, both)[0]  # at one moment: the run goes on
    assert 0 < trained == by_step
    assert soak.read_books()["balanced"] is True


def engine_is_killed(soak):
    actor, engine = soak.processes["actor"].pid, the(soak, "engine")
    arrived = {name for (name,) in rows(soak.run, "SELECT trajectory_id FROM trajectories")}
    with standing_still(engine):
        held = until_nothing_goes_on(soak)
        newest = newest_version(soak)
        os.kill(engine, signal.SIGKILL)
    until_told(soak, "ready", 2)
    assert process_of(soak, "actor") == actor
    assert another(soak, "engine", engine)
    assert len(told(soak, "engine_failed")) == 1
    assert told(soak, "ready")[1]["policy_version"] >= newest > told(soak, "ready")[0]["policy_version"]
    assert {fate[:2] for fate in fates(soak, held).values()} == {("dropped", "returned")}
    assert all(detail.startswith(ENGINE_DIED) for *_, detail in fates(soak, held).values())
    two_more_steps(soak)
    assert rows(soak.run, "SELECT COUNT(*) FROM leases WHERE failure") == [(0,)]  # it was none of the episodes'
    assert_trained_once(soak, arrived)
    newest = newest_version(soak)
    soak.until(lambda: last(soak, "policy_version_in_use") >= newest, f"version {newest} in use")


def grader_is_killed(soak):
    """Whoever waits for its verdict gets it from the next grader."""
    grader, engine = the(soak, "grader"), the(soak, "engine")
    failed = len(told(soak, "episode_failed"))
    with standing_still(grader):
        held = until_nothing_goes_on(soak)
        os.kill(grader, signal.SIGKILL)
    until_told(soak, "world_grader_died", 1)
    another(soak, "grader", grader)
    soak.until(lambda: not held & leased(soak), "verdicts for those that waited")
    assert "returned" not in {reason for _, reason, _ in fates(soak, held).values()}
    two_more_steps(soak)
    assert (len(told(soak, "world_grader_died")), len(told(soak, "episode_failed"))) == (1, failed)
    assert process_of(soak, "engine") == engine


def host_is_killed(soak):
    """Its episodes alone fail, and are returned; how many did."""
    host, engine, before = the(soak, "world host"), the(soak, "engine"), len(told(soak, "episode_failed"))
    with standing_still(engine):
        held = until_nothing_goes_on(soak)
        os.kill(host, signal.SIGKILL)
    until_told(soak, "world_host_died", 1)
    another(soak, "world host", host)
    two_more_steps(soak)
    failed = told(soak, "episode_failed")[before:]
    assert all(line["reason"].startswith("WorldFailure") for line in failed)
    names = {line["lease"] for line in failed}
    assert names
    assert names <= held
    assert {fate[:2] for fate in fates(soak, names).values()} == {("dropped", "returned")}
    assert (len(told(soak, "world_host_died")), process_of(soak, "engine")) == (1, engine)
    return len(failed)


def actor_is_told_to_leave(soak):
    engine = the(soak, "engine")
    os.kill(engine, signal.SIGSTOP)  # so that there is something to return
    held = until_nothing_goes_on(soak)
    began = time.monotonic()
    os.kill(soak.processes["actor"].pid, signal.SIGTERM)
    assert soak.actor_ended() == 0
    seconds = time.monotonic() - began
    soak.until(lambda: not role_of(engine), "the end of an engine that stands still")
    assert spooled(soak) == set()
    assert leased(soak) == set()
    left = fates(soak, held)
    assert {fate[:2] for fate in left.values()} <= {("dropped", "returned"), ("dropped", "actor_left")}
    assert {detail for _, reason, detail in left.values() if reason == "returned"} == {LEFT}
    assert (told(soak, "left")[-1]["spooled"], told(soak, "left")[-1]["leases"]) == (0, 0)
    return seconds


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_goes_on_without_its_engine_grader_or_world_host_and_its_actor_leaves(tmp_path, world_root, small_policy):
    with Soak(tmp_path / "run", small_policy, world_root, actor_options=PATIENT, **WHOLE) as soak:
        soak.until_steps(2)
        engine_is_killed(soak)
        grader_is_killed(soak)
        failed = host_is_killed(soak)
        seconds = actor_is_told_to_leave(soak)
        print({"episodes_failed_with_the_host": failed, "seconds_to_leave": round(seconds, 1)})
        assert soak.read_books()["balanced"] is True
    assert assert_all_come_out_again(soak.run, world_root) > 0  # none is graded 0 for what ended under it


def leaves_while_its_engine_starts(soak):
    the(soak, "engine")
    began = time.monotonic()
    os.kill(soak.processes["actor"].pid, signal.SIGTERM)
    assert soak.actor_ended() == 0
    assert told(soak, "ready") == []
    assert told(soak, "left")[-1]["leases"] == 0
    return time.monotonic() - began


def leaves_while_a_version_is_loaded(soak):
    """The trainer waits with groups, the engine with what comes of them: a reload that does not end."""
    soak.start_actor()
    soak.until_steps(1)
    engine = the(soak, "engine")
    with standing_still(the(soak, "trainer")):
        ready = "SELECT 1 FROM groups WHERE state IN ('ready', 'handed')"
        soak.until(lambda: len(rows(soak.run, ready)) >= 2, "groups for the next step")
        before = newest_version(soak)
        os.kill(engine, signal.SIGSTOP)
    soak.until(lambda: newest_version(soak) > before, "another version")
    soak.until(lambda: last(soak, "version_downloaded") > last(soak, "policy_version_in_use"), "the version's files")
    began = time.monotonic()
    os.kill(soak.processes["actor"].pid, signal.SIGTERM)
    assert soak.actor_ended() == 0
    assert last(soak, "policy_version_in_use") < last(soak, "version_downloaded")
    soak.until(lambda: not role_of(engine), "the end of an engine that stands still")
    assert leased(soak) == set()
    return time.monotonic() - began


def is_told_twice(soak):
    """The learner stands still, so that what is finished stays in the spool and the first leave takes long."""
    soak.actor_options = {"actor.drain_seconds": 600, "actor.flush_seconds": 600}
    ready, steps = len(told(soak, "ready")), soak.count("step")
    soak.start_actor()
    until_told(soak, "ready", ready + 1)
    soak.until_steps(steps + 1)
    soak.until(lambda: len(leased(soak)) > 1, "leases")
    with standing_still(the(soak, "gateway")):
        soak.until(lambda: spooled(soak), "a finished episode")
        pids = descendants([soak.processes["actor"].pid])
        leaves = len(told(soak, "leaving"))
        os.kill(soak.processes["actor"].pid, signal.SIGTERM)
        until_told(soak, "leaving", leaves + 1)
        os.kill(soak.processes["actor"].pid, signal.SIGTERM)
        assert soak.actor_ended() == 1
        assert len(told(soak, "ended_at_once")) == 1
        kept = spooled(soak)
        soak.until(lambda: not any(role_of(pid) for pid in pids), "the ends of its processes")
    assert kept
    return kept


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_actor_leaves_at_any_time_and_what_it_had_finished_is_sent_by_the_next(tmp_path, world_root, small_policy):
    with Soak(tmp_path / "run", small_policy, world_root, **WHOLE) as soak:
        seconds = [leaves_while_its_engine_starts(soak), leaves_while_a_version_is_loaded(soak)]
        kept = is_told_twice(soak)
        soak.actor_options = {}
        soak.start_actor()
        soak.until(lambda: not kept & spooled(soak), "acks of what was spooled")
        assert told(soak, "spool_taken_up")[-1]["trajectories"] == len(kept)
        assert kept <= {name for (name,) in rows(soak.run, "SELECT trajectory_id FROM trajectories")}
        two_more_steps(soak)
        assert_trained_once(soak, kept)
        assert soak.leave()["exit_codes"] == {"actor": 0, "learner": 0}
        print({"seconds_to_leave": [round(one, 1) for one in seconds], "kept": len(kept)})
