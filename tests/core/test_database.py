"""Tables are made in one transaction: all or none, and the disk is waited for once."""

import sqlite3
from pathlib import Path

import pytest

from edgehold.core.database import Database, make_tables
from edgehold.core.errors import JournalError

GOOD = "CREATE TABLE IF NOT EXISTS one (a INTEGER) STRICT; CREATE TABLE IF NOT EXISTS two (b INTEGER) STRICT;"
BAD = GOOD + "CREATE TABLE IF NOT EXISTS three (c NOTHING_KNOWN) STRICT;"


def tables(path: Path) -> list[str]:
    with sqlite3.connect(path) as db:
        return [row[0] for row in db.execute("SELECT name FROM sqlite_master ORDER BY name")]


def test_a_schema_that_fails_leaves_no_table_behind(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="the notes cannot be opened"):
        Database(tmp_path / "notes.db", BAD, "the notes")
    assert tables(tmp_path / "notes.db") == []


def test_tables_are_one_commit_and_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    wal = Path(f"{path}-wal")
    make_tables(db, GOOD)
    made = wal.read_bytes()
    assert commits(made) == 1
    db.execute("INSERT INTO two VALUES (7)")
    make_tables(db, GOOD)
    assert db.execute("SELECT b FROM two").fetchall() == [(7,)]
    assert commits(wal.read_bytes()) == 2, "making them again writes nothing"
    db.close()


def commits(wal: bytes) -> int:
    """Frames of a write-ahead log that end a transaction: those that say how large the database is after them."""
    size = int.from_bytes(wal[8:12], "big")
    frames = range(32, len(wal), 24 + size)
    return sum(int.from_bytes(wal[at + 4 : at + 8], "big") > 0 for at in frames)
