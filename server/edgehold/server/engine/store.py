"""A run at rest in one SQLite file: state and facts after each round, local states of the clients. Killed runs go on from it.

Rounds are committed whole: whatever a killed process had done of the next round is done again, with the same numbers.
Tables: about(key, value), rounds(number, facts, seconds) with facts as JSON, state(name, part, data), local(client, data),
letter(client, data): the updates of the last round, for methods whose devices read them in the next one.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgehold.core.contract import Facts, Packed
from edgehold.core.database import make_tables
from edgehold.core.errors import ConfigError, JournalError
from edgehold.core.vectors import Bytes

_PART = 64 << 20
"""Bytes per row of a state: SQLite takes at most 1 GB in one."""

_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rounds (number INTEGER PRIMARY KEY, facts TEXT NOT NULL, seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS state (name TEXT, part INTEGER, data BLOB NOT NULL, PRIMARY KEY (name, part));
CREATE TABLE IF NOT EXISTS letter (client TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS local (client TEXT PRIMARY KEY, data BLOB NOT NULL);
"""


@dataclass(frozen=True)
class Kept:
    """Where a run stands. rounds: facts of every committed round; rejected: refusals so far."""

    packed: Packed
    rounds: list[Facts]
    rejected: dict[str, int]


class Store:
    """path: the file, made when missing; None: local states only, in a temporary file that SQLite deletes."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect("" if path is None else path, isolation_level=None)
            if path is not None:
                self._db.execute("PRAGMA journal_mode = WAL")
            # A killed process loses nothing; after a power loss the last rounds may have to be played again.
            self._db.execute("PRAGMA synchronous = NORMAL")
            make_tables(self._db, _TABLES)
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{path}: {error}") from error

    @property
    def empty(self) -> bool:
        """Whether no round was committed yet."""
        return self._db.execute("SELECT 1 FROM rounds LIMIT 1").fetchone() is None

    def bind(self, what: Mapping[str, str]) -> None:
        """Note what run this is; `ConfigError` when the file holds another one."""
        found = dict(self._db.execute("SELECT key, value FROM about"))
        if other := [key for key in what if found.get(key, what[key]) != what[key]]:
            raise ConfigError(f"{self._path}: holds a run with another {' and '.join(other)}; use another file")
        self._db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", what.items())

    def kept(self) -> Kept | None:
        """Where the run stands; None before its first committed round."""
        rows = self._db.execute("SELECT facts FROM rounds ORDER BY number").fetchall()
        if not rows:
            return None
        blobs: dict[str, bytearray] = {}
        for name, data in self._db.execute("SELECT name, data FROM state ORDER BY name, part"):
            blobs.setdefault(name, bytearray()).extend(data)
        scalars, rejected = (json.loads(self._about(key)) for key in ("scalars", "rejected"))
        packed = Packed({name: Bytes(bytes(data)) for name, data in blobs.items()}, scalars)
        return Kept(packed, [json.loads(facts) for (facts,) in rows], rejected)

    def local(self, client: str) -> bytes | None:
        """The client's local state after its last committed round; None at first contact."""
        row = self._db.execute("SELECT data FROM local WHERE client = ?", (client,)).fetchone()
        return None if row is None else bytes(row[0])

    def letters(self) -> dict[str, bytes]:
        """The updates of the last committed round, by sender, for methods whose devices read them; else {}."""
        return {client: bytes(data) for client, data in self._db.execute("SELECT client, data FROM letter")}

    def commit(
        self, number: int, packed: Packed | None, facts: Facts, rejected: Mapping[str, int], local: Mapping[str, bytes],
        seconds: float, letters: Mapping[str, bytes] | None = None,
    ) -> None:  # fmt: skip
        """One round, whole. packed: None keeps local states alone, for a run that nobody will resume."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO local VALUES (?, ?)", local.items())
            if packed is not None:
                self._db.execute("DELETE FROM letter")
                self._db.executemany("INSERT INTO letter VALUES (?, ?)", (letters or {}).items())
                self._db.execute("DELETE FROM state")
                for name, blob in packed.blobs.items():
                    for part, start in enumerate(range(0, max(blob.size, 1), _PART)):
                        data = blob.read(start, min(start + _PART, blob.size))
                        self._db.execute("INSERT INTO state VALUES (?, ?, ?)", (name, part, data))
                about = {"scalars": json.dumps(dict(packed.scalars)), "rejected": json.dumps(dict(rejected))}
                self._db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())
                self._db.execute("INSERT INTO rounds VALUES (?, ?, ?)", (number, json.dumps(facts), seconds))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise JournalError(f"{self._path}: round {number} cannot be kept: {error}") from error

    def seconds(self) -> list[float]:
        """How long each committed round took."""
        return [seconds for (seconds,) in self._db.execute("SELECT seconds FROM rounds ORDER BY number")]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _about(self, key: str) -> str:
        row = self._db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise JournalError(f"{self._path}: {key} is missing beside the rounds")
        return str(row[0])
