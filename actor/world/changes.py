"""Applies an episode's database changes to the grader's databases, and lets them do nothing but change rows.

The statements come from a process that answers model-written code, so they are not believed to be what they should:
SQLite's authorizer says what each may touch, a step count ends what does not end, limits bound what they may hold.
Runs in AppWorld's virtualenv.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Any

STEPS_PER_CHECK, CHECKS = 100_000, 1000  # of SQLite's virtual machine; 30 MB of honest changes take a tenth of it
VALUE_LIMIT = 64 << 20  # bytes of one value
SHADOW = re.compile(r".*_fts_(data|idx|content|docsize|config)$")  # tables behind a full-text index
TARGET = re.compile(r"(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+[\"\[`]?(\w+)", re.IGNORECASE)
FUNCTIONS = frozenset({"lower", "upper", "coalesce", "ifnull", "abs", "length", "round", "current_timestamp"})
ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT})
WRITING = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})


class Refused(Exception):  # noqa: N818  # it names what happened to the changes
    """These changes are none that the engine's API calls make."""


class Changer:
    """One database's door for changes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.guarding, self.checks = False, 0
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        self.tables = {name for (name,) in rows if not name.startswith("sqlite_") and not SHADOW.match(name)}
        self.indexes = sorted(name for name in self.tables if name.endswith("_fts"))
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_LIMIT)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        # For good: setting it anew would have all of the evaluation's statements compiled again.
        connection.set_authorizer(self._authorized)
        connection.set_progress_handler(self._checked, STEPS_PER_CHECK)

    def apply(self, statements: list[Any]) -> None:
        """Runs them and commits. Raises Refused; the caller brings the database back to where it was."""
        for name in self.indexes:  # SQLite opens them anew after a backup, and declares them to itself as it does
            self.connection.execute(f"SELECT id FROM {name} LIMIT 0")  # noqa: S608  # a table's own name
        self.guarding, self.checks = True, 0
        try:
            for statement, parameters, many in statements:
                target = TARGET.match(statement.lstrip())
                if target is None:
                    raise Refused("a change is not an insert, update or delete")
                if target[1] not in self.tables:
                    raise Refused(f"a change is to {target[1]}, which is no table of the app")
                (self.connection.executemany if many else self.connection.execute)(statement, parameters)
            self.connection.commit()
        except (sqlite3.Error, sqlite3.Warning, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise Refused(f"a change cannot be applied: {type(error).__name__}: {error}"[:300]) from error
        finally:
            self.guarding = False

    def _authorized(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if not self.guarding or action in ALLOWED:
            return sqlite3.SQLITE_OK
        if action in WRITING:
            good = first is not None and not first.startswith("sqlite_")
        elif action == sqlite3.SQLITE_PRAGMA:  # the full-text index asks it of itself
            good = first == "data_version" and second is None
        else:
            good = action == sqlite3.SQLITE_FUNCTION and second is not None and second.lower() in FUNCTIONS
        return sqlite3.SQLITE_OK if good else sqlite3.SQLITE_DENY

    def _checked(self) -> int:
        """Nonzero ends the statement that runs."""
        self.checks += 1
        return int(self.guarding and self.checks > CHECKS)
