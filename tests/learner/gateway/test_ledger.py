from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from gateway_builders import arrive, make_run, make_trajectory, the_books

from common.errors import RunError, UsageError
from common.wire import encode
from learner.gateway import books
from learner.gateway.ledger import Ledger, Version, open_database
from learner.gateway.run_state import RunState


def publish(run: RunState, version: int, step: int | None = None) -> None:
    made = Version(version, f"{version:02x}" * 32, version if step is None else step)
    run.ledger.publish(made, 0, 0)
    run.publish(made)
    run.commit()


def test_reopening_restores_leases_groups_draw_and_version(tmp_path: Path):
    run = make_run(tmp_path, groups_per_step=2, group_size=2, lease_seconds=60.0)
    publish(run, 0)
    ids = arrive(run, 2)
    leases, _ = run.book.grant("actor-0", 1, now=0.0)
    run.commit()
    run_id = run.run_id
    # no close: as after SIGKILL
    again = make_run(tmp_path, groups_per_step=2, group_size=2, lease_seconds=60.0, now=1000.0)
    assert again.run_id == run_id
    assert again.policy_version == 0
    assert [group.group_id for group in again.book.in_state("ready")] == ["g000000"]
    assert [record.lease_id for record in again.book.in_state("ready")[0].survivors] == ids
    assert again.book.find(leases[0].lease_id).lease == leases[0]
    assert again.book.expire(now=1059.0) == []
    assert again.book.grant("actor-1", 9, now=1000.0)[0][0].lease_id == "g000001.1.0"
    assert again.book.history.next_number == 2
    run.close()
    again.close()


def test_failures_are_remembered_across_a_restart(tmp_path: Path):
    run = make_run(tmp_path, groups_per_step=1, group_size=3, most_failures=2)
    publish(run, 0)
    ids = arrive(run, 2)
    for _ in range(2):
        (lease,), _ = run.book.grant("actor-0", 1, now=0.0)
        run.inbox.give_back("actor-0", lease.lease_id, "world host died")
        run.commit()
        run.close()
        run = make_run(tmp_path, groups_per_step=1, group_size=3, most_failures=2)
    assert [record.lease_id for record in run.book.in_state("ready")[0].survivors] == ids
    run.close()


def test_nothing_uncommitted_survives_and_everything_committed_does(tmp_path: Path):
    run = make_run(tmp_path, groups_per_step=1, group_size=2)
    publish(run, 0)
    arrive(run, 1)
    leases, _ = run.book.grant("actor-0", 1, now=0.0)
    trajectory = make_trajectory(leases[0])
    run.inbox.receive("actor-0", trajectory, encode(trajectory))
    # no commit: nobody was told
    with open_database(tmp_path / "ledger.sqlite", read_only=True) as other:
        assert other.execute("SELECT COUNT(*) FROM trajectories").fetchone() == (1,)
        assert other.execute("SELECT COUNT(*) FROM leases").fetchone() == (1,)
    other.close()
    run.close()


def test_the_books_balance_in_every_state(tmp_path: Path):
    run = make_run(tmp_path, groups_per_step=1, group_size=3, staleness_bound=1)
    publish(run, 0)
    ids = arrive(run, 3)
    assert [group.group_id for group in run.book.take(1)] == ["g000000"]
    run.commit()
    assert the_books(tmp_path).pending == {"handed": 3}
    run.book.consume(1, ids[:2], {ids[2]: "zero_advantage"})
    run.ledger.publish(Version(1, "01" * 32, 1), 2, 1)
    run.publish(Version(1, "01" * 32, 1))
    run.commit()
    arrive(run, 1)
    run.book.grant("actor-0", 2, now=0.0)
    run.book.expire(now=1e6)
    run.book.grant("actor-0", 1, now=0.0)
    run.commit()
    found = the_books(tmp_path)
    assert found.balanced
    assert (found.issued, found.trained, found.evaluated) == (7, 2, 0)
    assert found.dropped == {"lapsed": 2, "zero_advantage": 1}
    assert found.pending == {"leased": 1, "received": 1}
    run.close()


def test_books_that_do_not_agree_are_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = make_run(tmp_path, groups_per_step=1, group_size=2)
    publish(run, 0)
    ids = arrive(run, 2)
    run.close()
    assert books.main([str(tmp_path)]) == 0
    capsys.readouterr()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as database:
        database.execute("DELETE FROM trajectories WHERE trajectory_id = ?", (ids[0],))
    assert books.main([str(tmp_path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["faults"] == [f"an arrived lease without its trajectory: {ids[0]}"]
    assert told["balanced"] is False


def test_one_trajectory_has_a_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = make_run(tmp_path, groups_per_step=1, group_size=2)
    publish(run, 0)
    ids = arrive(run, 2)
    run.book.take(1)
    run.commit()
    run.book.consume(1, [ids[0]], {ids[1]: "zero_advantage"})
    run.commit()
    run.close()
    capsys.readouterr()
    assert books.main([str(tmp_path), "--trajectory", ids[1], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(event["event"], event["detail"]) for event in told["events"]] == [
        ("received", "actor actor-0"),
        ("handed", "actor actor-0"),
        ("dropped", "zero_advantage"),
    ]
    assert told["task"] == "a_1"
    assert books.main([str(tmp_path), "--trajectory", "g9.9.9"]) == 1


def test_a_folder_without_a_ledger_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match="no ledger there"):
        books.main([str(tmp_path)])


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path):
    (tmp_path / "ledger.sqlite").write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(RunError, match="cannot be opened as a ledger"):
        Ledger(tmp_path / "ledger.sqlite")
    with sqlite3.connect(tmp_path / "other.sqlite") as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(RunError, match="schema 99"):
        Ledger(tmp_path / "other.sqlite")


def test_a_run_keeps_the_seed_that_it_was_begun_with(tmp_path: Path):
    make_run(tmp_path, seed=1).close()
    with pytest.raises(UsageError, match=r"begun with run\.seed 1, not 2"):
        make_run(tmp_path, seed=2)
