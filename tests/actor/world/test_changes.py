"""Statements that do anything but change rows of an app's tables are refused, and do nothing."""

import sqlite3

import pytest

from actor.world import changes
from actor.world.changes import Changer, Refused

HARMLESS = [
    ["INSERT INTO notes (id, title) VALUES (?, ?)", [2, "b"], False],
    ["INSERT INTO notes_fts (id, saved_search_text) VALUES (?, ?)", [2, "b"], False],
    ["UPDATE notes SET title=? WHERE notes.id = ?", [["c", 1], ["d", 2]], True],
    ["UPDATE notes_fts SET saved_search_text = ? WHERE id = ?", ["d", 2], False],
    ["DELETE FROM notes WHERE notes.id = ?", [1], False],
]
ATTACKS = {
    "attach": "ATTACH DATABASE '/tmp/x' AS y",
    "drop": "DROP TABLE notes",
    "pragma": "PRAGMA writable_schema = 1",
    "vacuum": "VACUUM INTO '/tmp/x'",
    "two_statements": "DELETE FROM notes; DROP TABLE notes",
    "hidden_behind_a_comment": "INSERT INTO notes VALUES (9, 'x'); --\nATTACH DATABASE '/tmp/x' AS y",
    "schema": "UPDATE sqlite_master SET sql = 'x'",
    "schema_by_its_other_name": "UPDATE sqlite_schema SET sql = 'x'",
    "sequence": "UPDATE sqlite_sequence SET seq = 0",
    "shadow_table": "UPDATE notes_fts_data SET block = x'00'",
    "quoted_shadow_table": 'DELETE FROM "notes_fts_idx"',
    "load_extension": "INSERT INTO notes (title) VALUES (load_extension('/tmp/x.so'))",
    "writefile": "UPDATE notes SET title = writefile('/tmp/x', 'y')",
    "zeroblob": "UPDATE notes SET title = zeroblob(1000000000)",
    "huge_text": "UPDATE notes SET title = printf('%1000000000d', 1)",
    "tokenizer": "UPDATE notes SET title = fts5(1)",
    "endless": (
        "INSERT INTO notes (title) WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
    ),
    "pragma_table": "INSERT INTO notes (title) SELECT name FROM pragma_function_list",
    "unknown_table": "INSERT INTO nothing VALUES (1)",
    "temporary": "CREATE TEMP TABLE x (y)",
    "trigger": "CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM notes; END",
    "transaction": "BEGIN EXCLUSIVE",
    "select": "SELECT 1",
    "empty": "",
}


@pytest.fixture
def changer():
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        "CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT);"
        "CREATE VIRTUAL TABLE notes_fts USING fts5(id, saved_search_text, tokenize = 'porter');"
        "CREATE TRIGGER sync AFTER DELETE ON notes BEGIN DELETE FROM notes_fts WHERE id = old.id; END;"
        "INSERT INTO notes (id, title) VALUES (1, 'a');"
        "INSERT INTO notes_fts (id, saved_search_text) VALUES (1, 'a');"
    )
    yield Changer(connection)
    connection.close()


def rows(changer):
    return changer.connection.execute("SELECT id, title FROM notes ORDER BY id").fetchall()


def test_rows_are_inserted_updated_and_deleted(changer):
    changer.apply(HARMLESS)
    assert rows(changer) == [(2, "d")]
    assert changer.connection.execute("SELECT id FROM notes_fts WHERE notes_fts MATCH 'd'").fetchall() == [(2,)]
    assert changer.connection.execute("SELECT count(*) FROM notes_fts").fetchall() == [(1,)]


@pytest.mark.parametrize("statement", ATTACKS.values(), ids=ATTACKS)
def test_anything_else_is_refused(changer, statement, tmp_path):
    statement = statement.replace("/tmp", str(tmp_path))
    with pytest.raises(Refused):
        changer.apply([[statement, [], False]])
    changer.connection.rollback()
    assert rows(changer) == [(1, "a")]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        ["INSERT INTO notes VALUES (?, ?)", [{"a": 1}, []], False],
        ["INSERT INTO notes VALUES (?, ?)", [10**30, "x"], False],
        ["INSERT INTO notes VALUES (?, ?)", [1], False],
        ["INSERT INTO notes VALUES (?, ?)", 7, True],
        [["INSERT"], [], False],
        [None, [], False],
        ["INSERT INTO notes VALUES (5, 'x')"],
        7,
    ],
)
def test_what_is_no_change_at_all_is_refused(changer, change):
    with pytest.raises(Refused):
        changer.apply([change])


def test_a_statement_that_takes_too_many_steps_is_ended(changer, monkeypatch):
    monkeypatch.setattr(changes, "CHECKS", 3)
    changer.apply([["INSERT INTO notes (title) VALUES (?)", [["x"]] * 300, True]])
    never = "SELECT 1 FROM notes a, notes b, notes c WHERE a.id + b.id < c.id - 400"
    slow = f"UPDATE notes SET title = 'y' WHERE EXISTS ({never})"
    with pytest.raises(Refused, match="interrupted"):
        changer.apply([[slow, [], False]])


def test_reading_is_as_free_as_before(changer):
    changer.apply(HARMLESS)
    assert (
        changer.connection.execute("SELECT printf('%d', count(*)), upper('x') FROM sqlite_master").fetchone()[1] == "X"
    )
    assert changer.connection.execute("PRAGMA user_version").fetchone() == (0,)
