"""The ledger (stages 1 to 5 and 11): what was granted, what arrived, what became of it, on disk before anyone is told.

SQLite in WAL mode with synchronous=FULL: after `commit` returns, a crash of process or machine loses none of it. The
gateway alone writes; `loop ledger` and others read beside it. All that arrived together is one transaction. The frames
of trajectories lie beside it in files of their own, which are synced before the transaction that names them.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from common.errors import RunError
from common.evaluation import Scored
from common.messages import Lease, Sampling, Trajectory
from common.segments import Place, Segments
from learner.gateway.history import Draw
from learner.gateway.records import (
    NO_SIGNAL,
    STRAGGLER,
    WITHOUT_SIGNAL,
    Group,
    GroupState,
    LeaseRecord,
    LeaseState,
    Member,
    Purpose,
    has_signal,
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS groups (
    group_id TEXT PRIMARY KEY, number INTEGER NOT NULL, task_id TEXT NOT NULL, purpose TEXT NOT NULL,
    label TEXT NOT NULL, size INTEGER NOT NULL, minimum_version INTEGER NOT NULL, sampling TEXT NOT NULL,
    state TEXT NOT NULL, reason TEXT NOT NULL, step INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS groups_by_state ON groups (state, step);
CREATE TABLE IF NOT EXISTS leases (
    lease_id TEXT PRIMARY KEY, group_id TEXT NOT NULL REFERENCES groups, member INTEGER NOT NULL,
    epoch INTEGER NOT NULL, purpose TEXT NOT NULL, actor TEXT NOT NULL, version INTEGER NOT NULL, lease TEXT NOT NULL,
    state TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, failure INTEGER NOT NULL,
    oldest_version INTEGER NOT NULL, granted_at REAL NOT NULL, changed_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS leases_by_group ON leases (group_id, member, epoch);
CREATE INDEX IF NOT EXISTS leases_by_state ON leases (purpose, state, reason);
CREATE TABLE IF NOT EXISTS trajectories (
    trajectory_id TEXT PRIMARY KEY, actor TEXT NOT NULL, task_id TEXT NOT NULL, label TEXT NOT NULL,
    reward REAL NOT NULL, success INTEGER NOT NULL, tokens INTEGER NOT NULL, sampled_tokens INTEGER NOT NULL,
    oldest_version INTEGER NOT NULL, tags TEXT NOT NULL, seconds REAL NOT NULL, received_at REAL NOT NULL,
    segment INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions (
    version INTEGER PRIMARY KEY, digest TEXT NOT NULL, step INTEGER NOT NULL, published_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS steps (
    step INTEGER PRIMARY KEY, version INTEGER NOT NULL, trained INTEGER NOT NULL, passed_over INTEGER NOT NULL,
    made_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS straggler_lengths (lease_id TEXT PRIMARY KEY, tokens INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS carried (group_id TEXT PRIMARY KEY REFERENCES groups, step INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS newest_versions (trajectory_id TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS evaluations (label TEXT PRIMARY KEY, result TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS story (
    at REAL NOT NULL, lease_id TEXT NOT NULL, event TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS story_by_lease ON story (lease_id, at);
"""
SCHEMA_VERSION = 2
KEPT = """
SELECT COUNT(*), AVG(t.tokens) FROM groups g JOIN leases l USING (group_id)
JOIN trajectories t ON t.trajectory_id = l.lease_id
WHERE g.purpose = 'train' AND g.state IN ('handed', 'trained', 'dropped') AND g.step = ? AND g.reason != ?
AND (l.state IN ('handed', 'trained') OR l.reason NOT IN ('stale', 'group_too_small', 'run_over'))
"""
CUT = """
SELECT COUNT(*), COUNT(s.tokens), AVG(s.tokens) FROM leases l LEFT JOIN straggler_lengths s USING (lease_id)
WHERE l.purpose = 'train' AND l.state = 'dropped' AND l.reason = ?
"""
CUT_FOR_STEP = """
AND l.group_id IN (SELECT group_id FROM groups WHERE state IN ('handed', 'trained', 'dropped') AND step = ?)
"""
CARRIED = """
SELECT (SELECT COUNT(*) FROM carried WHERE step = ?), (SELECT COUNT(*) FROM carried JOIN groups g USING (group_id)
WHERE g.state IN ('handed', 'trained') AND g.step = ?)
"""


@dataclass(frozen=True)
class Version:
    """A published version as the ledger has it."""

    version: int
    digest: str
    step: int


def open_database(file: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to a ledger.

    Raises:
        RunError: not a database, or of another schema.
    """
    try:
        where = f"{file.resolve().as_uri()}?mode=ro" if read_only else str(file)
        database = sqlite3.connect(where, uri=read_only, isolation_level=None, timeout=10)
        if not read_only:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("PRAGMA foreign_keys=ON")
        found = int(database.execute("PRAGMA user_version").fetchone()[0])
        if found not in (0, SCHEMA_VERSION):
            raise RunError(f"{file}: ledger of schema {found}, this version reads {SCHEMA_VERSION}; use that version")
        if not read_only:
            database.executescript(SCHEMA)
            database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        return database
    except sqlite3.Error as error:
        raise RunError(f"{file}: cannot be opened as a ledger: {error}") from None


class Ledger:
    """The gateway's own connection. Changes gather in one transaction until `commit`."""

    def __init__(self, file: Path) -> None:
        self._database = open_database(file)
        self._facts: dict[str, str] = {}  # nobody else writes them
        query = "SELECT segment, MAX(offset + length) FROM trajectories GROUP BY segment"
        self._frames = Segments(file.parent / "journal", dict(self._database.execute(query).fetchall()))
        if self._frames.damaged:
            raise RunError(f"the journal lost acknowledged trajectories: {self._frames.damaged[0]}; bring it back")

    # --- writing

    def save(self, groups: Iterable[Group], leases: Iterable[LeaseRecord]) -> None:
        """Store changed groups and leases."""
        self._begin()
        now = time.time()
        for group in groups:
            self._database.execute(
                "INSERT INTO groups VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (group_id) DO UPDATE SET"
                " state=excluded.state, reason=excluded.reason, step=excluded.step",
                (
                    group.group_id, group.number, group.task_id, group.purpose, group.label, len(group.members),
                    group.minimum_version, group.sampling.model_dump_json(), group.state, group.reason, group.step,
                ),
            )  # fmt: skip
            if group.carried:
                self._database.execute("INSERT OR IGNORE INTO carried VALUES (?,?)", (group.group_id, group.carried))
        for record in leases:
            lease = record.lease
            self._database.execute(
                "INSERT INTO leases VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (lease_id) DO UPDATE SET"
                " state=excluded.state, reason=excluded.reason, detail=excluded.detail, failure=excluded.failure,"
                " oldest_version=excluded.oldest_version, changed_at=excluded.changed_at",
                (
                    lease.lease_id, lease.group_id, lease.member, lease.epoch, lease.purpose, record.actor,
                    record.version, lease.model_dump_json(), record.state, record.reason, record.detail,
                    int(record.failure), record.oldest_version, now, now,
                ),
            )  # fmt: skip
            told = " ".join(part for part in (record.reason, record.detail) if part) or f"actor {record.actor}"
            self.tell(lease.lease_id, record.state, told)

    def journal(self, trajectory: Trajectory, frame: bytes) -> None:
        """Store an arrived trajectory, as the very frame that came. A second one of the same id changes nothing."""
        self._begin()
        place = self._frames.append(frame)
        self._database.execute(
            "INSERT OR IGNORE INTO trajectories VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                trajectory.trajectory_id, trajectory.actor, trajectory.lease.task_id, trajectory.lease.label,
                trajectory.reward, int(trajectory.success), len(trajectory.sampled_bytes),
                int(trajectory.sampled.sum()), trajectory.oldest_version, json.dumps(trajectory.tags),
                trajectory.seconds, time.time(), place.segment, place.offset, place.length,
            ),
        )  # fmt: skip
        if trajectory.lease.purpose == "evaluate":
            newest = (trajectory.trajectory_id, int(trajectory.versions.max()))
            self._database.execute("INSERT OR IGNORE INTO newest_versions VALUES (?,?)", newest)

    def tell(self, lease_id: str, event: str, detail: str) -> None:
        """One line of a lease's story."""
        self._begin()
        self._database.execute("INSERT INTO story VALUES (?,?,?,?)", (time.time(), lease_id, event, detail))

    def note_straggler(self, lease_id: str, actor: str, tokens: int) -> bool:
        """How long a straggler's episode became, tokens; the most that was told. False: it is none of that actor's."""
        self._begin()
        told = self._database.execute(
            "INSERT INTO straggler_lengths SELECT lease_id, ? FROM leases WHERE lease_id=? AND actor=? AND reason=?"
            " ON CONFLICT DO UPDATE SET tokens = MAX(tokens, excluded.tokens)",
            (tokens, lease_id, actor, STRAGGLER),
        )
        return told.rowcount > 0

    def set_fact(self, key: str, value: str) -> None:
        """One fact of the run."""
        self._begin()
        self._database.execute("INSERT OR REPLACE INTO run VALUES (?,?)", (key, value))
        self._facts[key] = value

    def publish(self, version: Version, trained: int, passed_over: int) -> None:
        """A version, and the step that made it."""
        self._begin()
        now = time.time()
        self._database.execute(
            "INSERT OR REPLACE INTO versions VALUES (?,?,?,?)", (version.version, version.digest, version.step, now)
        )
        if version.step:
            self._database.execute(
                "INSERT OR REPLACE INTO steps VALUES (?,?,?,?,?)",
                (version.step, version.version, trained, passed_over, now),
            )

    def undo_after(self, step: int) -> list[Group]:
        """Forget versions and steps after `step`, which the trainer's state knows nothing of; their groups.

        Those that were replaced stay so: the trainer never had them.
        """
        self._begin()
        self._database.execute("DELETE FROM versions WHERE step > ?", (step,))
        self._database.execute("DELETE FROM steps WHERE step > ?", (step,))
        return list(self._groups("state IN ('trained', 'dropped') AND step > ? AND reason != ?", (step, NO_SIGNAL)))

    def record_evaluation(self, label: str, result: str) -> None:
        """An evaluation is complete."""
        self._begin()
        self._database.execute("INSERT OR REPLACE INTO evaluations VALUES (?,?)", (label, result))

    def commit(self) -> None:
        """Returns when everything is on the disk."""
        if self._database.in_transaction:
            self._frames.sync()
            self._database.execute("COMMIT")
            self._frames.settle()

    def roll_back(self) -> None:
        """Take back what was not committed; for when the disk takes no more."""
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")
        self._facts.clear()
        self._frames.cut()

    def close(self) -> None:
        """What was not committed is not kept."""
        self._frames.close()
        self._database.close()

    def _begin(self) -> None:
        if not self._database.in_transaction:
            self._database.execute("BEGIN")

    # --- reading

    def look(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query that only reads."""
        return self._database.execute(query, tuple(values)).fetchall()

    def fact(self, key: str) -> str | None:
        if key not in self._facts:
            row = self._database.execute("SELECT value FROM run WHERE key=?", (key,)).fetchone()
            if row is None:
                return None
            self._facts[key] = str(row[0])
        return self._facts[key]

    def lease_state(self, lease_id: str) -> tuple[LeaseState, str] | None:
        """State and reason of any lease ever granted."""
        row = self._database.execute("SELECT state, reason FROM leases WHERE lease_id=?", (lease_id,)).fetchone()
        return None if row is None else (cast("LeaseState", row[0]), str(row[1]))

    def live_groups(self) -> list[Group]:
        """Groups that are neither trained, evaluated nor dropped; evaluations first, then by draw."""
        return list(self._groups("state IN ('open', 'ready', 'handed')", ()))

    def draws(self) -> Iterator[Draw]:
        """All task draws and what came of them, by number."""
        query = (
            "SELECT g.number, g.task_id, g.state, g.reason, g.step, COUNT(t.reward), MIN(t.reward), MAX(t.reward),"
            " MAX(l.reason IN (?, ?)) FROM groups g LEFT JOIN leases l USING (group_id)"
            " LEFT JOIN trajectories t ON t.trajectory_id = l.lease_id"
            " WHERE g.purpose = 'train' GROUP BY g.group_id ORDER BY g.number"
        )
        rows = self._database.execute(query, WITHOUT_SIGNAL)
        for number, task, state, reason, step, arrived, least, most, passed_over in rows:
            signal = has_signal(state, (least, most) if arrived > 1 else (), passed_over=bool(passed_over))
            yield Draw(number, task, signal, step, refilled=reason == NO_SIGNAL)

    def current_version(self) -> Version | None:
        """The newest published version."""
        row = self._database.execute("SELECT version, digest, step FROM versions ORDER BY version DESC").fetchone()
        return None if row is None else Version(*row)

    def highest_version_ever(self) -> int:
        """The newest version that any token may carry, also of steps that were undone since; -1 before the first."""
        return int(self.fact("highest_version") or -1)

    def arrived(self) -> int:
        """Trajectories journalled so far, count."""
        return int(self._database.execute("SELECT COUNT(*) FROM trajectories").fetchone()[0])

    def holders(self) -> set[str]:
        """Actors that have a lease out."""
        return {str(row[0]) for row in self._database.execute("SELECT DISTINCT actor FROM leases WHERE state='leased'")}

    def has_arrived(self, trajectory_id: str) -> bool:
        """Whether a trajectory is journalled."""
        query = "SELECT 1 FROM trajectories WHERE trajectory_id=?"
        return self._database.execute(query, (trajectory_id,)).fetchone() is not None

    def frames(self, trajectory_ids: Iterable[str]) -> list[bytes]:
        """Journalled frames, in the order asked for. Raises RunError: a file of theirs is damaged."""
        query = "SELECT segment, offset, length FROM trajectories WHERE trajectory_id=?"
        return [self._frames.read(Place(*self._database.execute(query, (i,)).fetchone())) for i in trajectory_ids]

    def straggler_figures(self, step: int) -> dict[str, int | float | None]:
        """The counts and mean lengths of a step's line `stragglers` in metrics.jsonl.

        kept: trajectories that the trainer had for this step, with their mean length in tokens. cut: leases dropped
        for it as stragglers; of those whose length is known (the whole trajectory came too late, or the actor told how
        far it was), the mean. The same `_in_sum` for all of the run so far, lengths told since included.
        carried: groups that this step went without and that were not cut; carried_in: groups of this step that an
        earlier one went without.
        """
        carried = self._database.execute(CARRIED, (step, step)).fetchone()
        kept = self._database.execute(KEPT, (step, NO_SIGNAL)).fetchone()
        cut = self._database.execute(CUT + CUT_FOR_STEP, (STRAGGLER, step)).fetchone()
        in_sum = self._database.execute(CUT, (STRAGGLER,)).fetchone()
        names = ("cut", "cut_of_known_length", "mean_tokens_cut")
        return {
            **dict(zip(("kept", "mean_tokens_kept"), kept, strict=True)),
            **dict(zip(names, cut, strict=True)),
            **dict(zip(("carried", "carried_in"), carried, strict=True)),
            **dict(zip((f"{name}_in_sum" for name in names), in_sum, strict=True)),
        }

    def recorded_evaluations(self) -> set[str]:
        return {str(row[0]) for row in self._database.execute("SELECT label FROM evaluations")}

    def scored(self, label: str) -> list[Scored]:
        """Evaluated episodes of a label."""
        rows = self._database.execute(
            "SELECT t.task_id, l.member, t.reward, t.success, t.oldest_version, COALESCE(n.version, -1)"
            " FROM trajectories t JOIN leases l ON l.lease_id = t.trajectory_id"
            " LEFT JOIN newest_versions n USING (trajectory_id) WHERE t.label=? AND l.state='evaluated'",
            (label,),
        )
        return [
            Scored(task, member, reward, bool(success), *versions) for task, member, reward, success, *versions in rows
        ]

    def _groups(self, where: str, values: tuple[object, ...]) -> Iterator[Group]:
        columns = "group_id, number, task_id, purpose, label, size, minimum_version, sampling, state, reason, step"
        carried = "(SELECT c.step FROM carried c WHERE c.group_id = groups.group_id)"
        query = f"SELECT {columns}, {carried} FROM groups WHERE {where} ORDER BY purpose, number, group_id"  # noqa: S608 - `where` is ours
        for row in self._database.execute(query, values).fetchall():
            group = Group(
                group_id=row[0],
                number=row[1],
                task_id=row[2],
                purpose=cast("Purpose", row[3]),
                label=row[4],
                minimum_version=row[6],
                sampling=Sampling.model_validate_json(row[7]),
                members=[Member() for _ in range(row[5])],
                state=cast("GroupState", row[8]),
                reason=row[9],
                step=row[10],
                carried=row[11] or 0,
            )
            self._load_leases(group)
            yield group

    def _load_leases(self, group: Group) -> None:
        query = (
            "SELECT l.actor, version, lease, state, reason, detail, failure, l.oldest_version, t.reward FROM leases l"
            " LEFT JOIN trajectories t ON t.trajectory_id = l.lease_id WHERE group_id=? ORDER BY member, epoch"
        )
        for actor, version, lease, state, reason, detail, failure, oldest, reward in self._database.execute(
            query, (group.group_id,)
        ):
            record = LeaseRecord(
                lease=Lease.model_validate_json(lease),
                actor=actor,
                version=version,
                state=cast("LeaseState", state),
                reason=reason,
                detail=detail,
                failure=bool(failure),
                oldest_version=oldest,
                reward=reward,
            )
            group.members[record.lease.member].leases.append(record)
