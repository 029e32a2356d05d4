"""`loop ledger RUN`: the books of a run, and the story of one trajectory. Reads the ledger beside a running gateway.

Every lease ever issued is in exactly one column: trained, evaluated, dropped (by reason) or pending. The books balance
when that holds and when what the ledger says in several places agrees.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import UsageError

PENDING = ("leased", "received", "handed")
FACTS = {
    "a lease in no known state": (
        "SELECT lease_id FROM leases WHERE state NOT IN"
        " ('leased', 'received', 'handed', 'trained', 'evaluated', 'dropped')"
    ),
    "an arrived lease without its trajectory": (
        "SELECT lease_id FROM leases WHERE state IN ('received', 'handed', 'trained', 'evaluated')"
        " AND lease_id NOT IN (SELECT trajectory_id FROM trajectories)"
    ),
    "a trajectory without its lease": (
        "SELECT trajectory_id FROM trajectories WHERE trajectory_id NOT IN (SELECT lease_id FROM leases)"
    ),
    "two trajectories for one member": (
        "SELECT MAX(lease_id) FROM leases WHERE state IN ('received', 'handed', 'trained', 'evaluated')"
        " GROUP BY group_id, member HAVING COUNT(*) > 1"
    ),
    "an evaluation trajectory that was trained on": (
        "SELECT lease_id FROM leases WHERE purpose = 'evaluate' AND state IN ('handed', 'trained')"
    ),
    "something dropped without a reason": "SELECT lease_id FROM leases WHERE state = 'dropped' AND reason = ''",
    "a step whose count of trained trajectories is not what its groups hold": (
        "SELECT s.step FROM steps s WHERE s.trained != (SELECT COUNT(*) FROM leases l"
        " JOIN groups g USING (group_id) WHERE g.step = s.step AND l.state = 'trained')"
    ),
}


@dataclass(frozen=True)
class Books:
    """Counts of leases by what became of them."""

    issued: int
    trained: int
    evaluated: int
    dropped: dict[str, int]  # by reason
    pending: dict[str, int]  # by state
    faults: list[str]  # what does not agree, with an example each

    @property
    def balanced(self) -> bool:
        settled = self.trained + self.evaluated + sum(self.dropped.values()) + sum(self.pending.values())
        return self.issued == settled and not self.faults


def books(database: sqlite3.Connection) -> Books:
    """The books as the ledger has them, read in one transaction."""
    database.execute("BEGIN")
    try:
        issued = int(database.execute("SELECT COUNT(*) FROM leases").fetchone()[0])
        by_state = dict(database.execute("SELECT state, COUNT(*) FROM leases GROUP BY state"))
        dropped = dict(
            database.execute(
                "SELECT reason, COUNT(*) FROM leases WHERE state = 'dropped' GROUP BY reason ORDER BY reason"
            )
        )
        faults = [
            f"{fault}: {found[0][0]}" + (f" and {len(found) - 1} more" if len(found) > 1 else "")
            for fault, query in FACTS.items()
            if (found := database.execute(query).fetchall())
        ]
    finally:
        database.execute("COMMIT")
    return Books(
        issued=issued,
        trained=by_state.get("trained", 0),
        evaluated=by_state.get("evaluated", 0),
        dropped=dropped,
        pending={state: by_state[state] for state in PENDING if state in by_state},
        faults=faults,
    )


def story(database: sqlite3.Connection, trajectory_id: str) -> dict[str, Any] | None:
    """All that is known of one trajectory, in the order in which it happened; None when nothing is."""
    events = database.execute(
        # as it was told: a wall clock may go back
        "SELECT at, event, detail FROM story WHERE lease_id = ? ORDER BY rowid",
        (trajectory_id,),
    ).fetchall()
    if not events:
        return None
    row = database.execute(
        "SELECT task_id, actor, reward, tokens, sampled_tokens, oldest_version, tags FROM trajectories"
        " WHERE trajectory_id = ?",
        (trajectory_id,),
    ).fetchone()
    names = ("task", "actor", "reward", "tokens", "sampled_tokens", "oldest_version", "tags")
    return {
        "trajectory": trajectory_id,
        **(dict(zip(names, row, strict=True)) if row else {}),
        "events": [{"time": at, "event": event, "detail": detail} for at, event, detail in events],
    }


def main(argv: Sequence[str]) -> int:
    """Print the books, or one story. 1 when the books do not balance or the trajectory is unknown."""
    parser = argparse.ArgumentParser(prog="loop ledger", description="the books of a run: issued = trained + ...")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--trajectory", metavar="ID", help="tell this one's story instead")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(argv)
    file = options.run / "ledger.sqlite"
    if not file.is_file():
        raise UsageError(f"{options.run}: no ledger there; name the folder of a run that a learner has begun")
    from learner.gateway.ledger import open_database  # noqa: PLC0415 - with all messages; `--help` does without

    database = open_database(file, read_only=True)
    try:
        if options.trajectory is None:
            return _print_books(books(database), as_json=options.json)
        return _print_story(story(database, options.trajectory), options.trajectory, as_json=options.json)
    finally:
        database.close()


def _print_books(found: Books, *, as_json: bool) -> int:
    if as_json:
        sys.stdout.write(json.dumps({**asdict(found), "balanced": found.balanced}) + "\n")
        return 0 if found.balanced else 1
    rows = [("issued", found.issued), ("trained", found.trained), ("evaluated", found.evaluated)]
    rows += [(f"dropped: {reason}", count) for reason, count in found.dropped.items()]
    rows += [(f"pending: {state}", count) for state, count in found.pending.items()]
    lines = [f"{name:<28} {count:>8}" for name, count in rows]
    lines += [f"fault: {fault}" for fault in found.faults]
    lines.append("the books balance" if found.balanced else "the books do not balance")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if found.balanced else 1


def _print_story(told: dict[str, Any] | None, trajectory_id: str, *, as_json: bool) -> int:
    if told is None:
        sys.stderr.write(f"loop ledger: {trajectory_id}: no such lease or trajectory in this run\n")
        return 1
    if as_json:
        sys.stdout.write(json.dumps(told) + "\n")
        return 0
    lines = [f"{name:<16} {value}" for name, value in told.items() if name != "events"]
    for event in told["events"]:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
        lines.append(f"{stamp}.{int(event['time'] % 1 * 1000):03d}  {event['event']:<10} {event['detail']}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
