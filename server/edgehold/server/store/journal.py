"""The journal: one SQLite file, one writer thread, every move durable before its effect.

Changes queued while a commit is under way are committed together, so a hundred receipts cost one sync. A change runs
inside the writer's transaction: what it reads there cannot be overtaken. Reads outside go through a connection of their
own and see only what is durable.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from edgehold.core.database import make_tables
from edgehold.core.errors import ConfigError, FlError, JournalError

T = TypeVar("T")
Change = Callable[[sqlite3.Connection], T]

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS clients (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, signing_fingerprint BLOB, signing_key BLOB, issued_from REAL NOT NULL DEFAULT 0,
    allowed_tasks TEXT NOT NULL DEFAULT '[]', expires REAL NOT NULL DEFAULT 0,
    admitted INTEGER NOT NULL DEFAULT 0, rejected INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE IF NOT EXISTS runs (
    seq INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, plan TEXT NOT NULL, digest BLOB NOT NULL, schema TEXT NOT NULL,
    initial BLOB NOT NULL, state TEXT NOT NULL, error TEXT NOT NULL DEFAULT '', created REAL NOT NULL,
    seconds REAL NOT NULL DEFAULT 0) STRICT;
CREATE TABLE IF NOT EXISTS rounds (
    run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, state TEXT NOT NULL, nonce BLOB NOT NULL,
    selection TEXT NOT NULL, base BLOB NOT NULL, survivors TEXT, model BLOB, packed TEXT, facts TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (run, round, attempt)) STRICT;
CREATE TABLE IF NOT EXISTS receipts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
    client TEXT NOT NULL, upload BLOB NOT NULL, payload BLOB NOT NULL, length INTEGER NOT NULL,
    UNIQUE (run, round, attempt, client)) STRICT;
CREATE TABLE IF NOT EXISTS letters (
    run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, client TEXT NOT NULL, head BLOB NOT NULL,
    relayed INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (run, round, attempt, client)) STRICT;
CREATE TABLE IF NOT EXISTS masks (
    run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, step TEXT NOT NULL, value BLOB NOT NULL,
    company TEXT NOT NULL, PRIMARY KEY (run, round, attempt)) STRICT;
CREATE TABLE IF NOT EXISTS mask_messages (
    run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, client TEXT NOT NULL, step TEXT NOT NULL,
    body BLOB NOT NULL, PRIMARY KEY (run, round, attempt, client, step)) STRICT;
CREATE TABLE IF NOT EXISTS suspects (
    run TEXT NOT NULL, client TEXT NOT NULL, chance REAL NOT NULL, company INTEGER NOT NULL,
    PRIMARY KEY (run, client)) STRICT;
CREATE TABLE IF NOT EXISTS ledgers (client TEXT PRIMARY KEY, lines INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS audit (
    seq INTEGER PRIMARY KEY, time REAL NOT NULL, event TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL,
    previous BLOB NOT NULL, hash BLOB NOT NULL) STRICT;
"""

BATCH = 512


class Journal:
    """Opens (and locks) the journal in a folder; a second server on the same folder is refused.

    synced: told, in the writer's thread, how many seconds each commit took: the write and the fsync that ends it.
    """

    def __init__(self, folder: Path, synced: Callable[[float], object] = lambda seconds: None) -> None:
        self._synced = synced
        self._path = folder / "journal.db"
        self._lock = self._take_lock(folder / "journal.lock")
        self._broken: JournalError | None = None
        try:
            self._writer = self._connect()
            make_tables(self._writer, SCHEMA)
            self._reader = self._connect()
            self.epoch = self._next_epoch()
            row = self._writer.execute("SELECT hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise JournalError(f"{self._path}: {error}") from error
        self._head: bytes = row[0] if row else bytes(32)
        self._queue: queue.SimpleQueue[tuple[Change[Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def _take_lock(self, path: Path) -> int:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
            os.close(handle)
            raise ConfigError(
                f"{path.parent}: another fl-server (process {holder or 'unknown'}) already runs on this store; "
                "stop it first, or start this one with another --home"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        return handle

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=5000")
        return connection

    def _next_epoch(self) -> int:
        row = self._writer.execute("SELECT value FROM meta WHERE key='epoch'").fetchone()
        epoch = (int(row[0]) if row else 0) + 1
        self._writer.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (str(epoch).encode(),))
        return epoch

    def read(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Rows of a short query over what is durable."""
        try:
            return self._reader.execute(query, arguments).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"{self._path}: {error}") from error

    async def write(self, change: Change[T]) -> T:
        """Run `change` in the writer's transaction; returns its result once that is durable.

        An FlError raised by the change undoes that change alone and is raised here; any other failure is a JournalError,
        after which the journal takes nothing more.
        """
        if self._broken:
            raise self._broken
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put((change, future))
        # A caller may be cancelled; its change still happens, as after a lost reply.
        return await asyncio.shield(future)

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < BATCH:
                    batch.append(self._queue.get_nowait())
            work = [item for item in batch if item is not None]
            if work:
                self._settle(self._commit(work))
            if len(work) < len(batch):
                return

    def _commit(
        self, work: list[tuple[Change[Any], asyncio.Future[Any]]]
    ) -> list[tuple[asyncio.Future[Any], Any, Exception | None]]:
        head = self._head
        done: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        try:
            if self._broken:
                raise self._broken
            self._writer.execute("BEGIN IMMEDIATE")
            for change, future in work:
                self._writer.execute("SAVEPOINT change")
                before = self._head
                try:
                    done.append((future, change(self._writer), None))
                except FlError as error:
                    self._writer.execute("ROLLBACK TO change")
                    self._head = before
                    done.append((future, None, error))
                self._writer.execute("RELEASE change")
            before_sync = time.perf_counter()
            self._writer.execute("COMMIT")
            self._synced(time.perf_counter() - before_sync)
            return done
        except Exception as error:
            self._head = head
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            self._broken = error if isinstance(error, JournalError) else JournalError(f"{self._path}: {error}")
            return [(future, None, self._broken) for _, future in work]

    def _settle(self, done: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
        def deliver(group: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
            for future, result, error in group:
                if future.done():
                    continue
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
                    future.exception()  # the caller may be gone; the failure is logged where it happened

        loops = {id(future.get_loop()): future.get_loop() for future, _, _ in done}
        for key, loop in loops.items():
            mine = [item for item in done if id(item[0].get_loop()) == key]
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(deliver, mine)

    def append_audit(self, connection: sqlite3.Connection, event: str, subject: str, **detail: Any) -> None:
        """One line of the hash-chained audit log, within a change."""
        text = json.dumps(detail, sort_keys=True, separators=(",", ":"))
        now = time.time()
        line = json.dumps([now, event, subject, text]).encode()
        digest = hashlib.sha256(self._head + line).digest()
        connection.execute(
            "INSERT INTO audit (time, event, subject, detail, previous, hash) VALUES (?, ?, ?, ?, ?, ?)",
            (now, event, subject, text, self._head, digest),
        )
        self._head = digest

    def verify_audit(self) -> int:
        """Number of audit lines, or `JournalError` naming the first line whose hash does not follow from the one before."""
        previous, count = bytes(32), 0
        for seq, now, event, subject, text, before, digest in self.read("SELECT * FROM audit ORDER BY seq"):
            line = json.dumps([now, event, subject, text]).encode()
            if before != previous or hashlib.sha256(previous + line).digest() != digest:
                raise JournalError(f"audit line {seq} does not follow from the line before it: the log was altered")
            previous, count = digest, count + 1
        return count

    def close(self) -> None:
        """Finish what is queued and let go of the file."""
        self._queue.put(None)
        self._thread.join(timeout=10)
        self._writer.close()
        self._reader.close()
        os.close(self._lock)
