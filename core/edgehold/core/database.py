"""One SQLite file with one writer: WAL, every commit synced. Calls block on the disk; any thread may make them."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgehold.core.errors import JournalError


def make_tables(db: sqlite3.Connection, schema: str) -> None:
    """Run the statements of a schema (each with IF NOT EXISTS) in one transaction: all of its tables are there or none, and the
    disk is waited for once instead of once a table.
    """
    db.executescript(f"BEGIN;{schema}COMMIT;")


class Database:
    """The file at `path`, for its owner alone, made when missing. what: names it in errors.

    `JournalError` when it cannot be opened, and from then on whenever the disk fails.
    """

    def __init__(self, path: Path, schema: str, what: str) -> None:
        self._lock, self._what = threading.Lock(), what
        try:
            # Made by us, so that it is never wider than 0600; SQLite gives its journals the mode of the file.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            make_tables(self._db, schema)
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"{path}: {what} cannot be opened: {error}") from None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or, when the block raises, nothing; durable when the block is left."""
        with self.reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for nobody else meanwhile."""
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise JournalError(f"{self._what} failed: {error}") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
