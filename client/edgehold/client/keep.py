"""What the device remembers across crashes: tasks and how far each one is, and the local state of every run.

One SQLite file, WAL, every commit synced. A task moves `received -> trained -> acknowledged`; `cancelled` means that no byte
of it left and it may be done again, `dropped` that it is over without being counted. A masked sum has
a state beside its task, from its first key until the round is over, and leaves a line for each set of survivors that was
answered. The local state of a round is stored
with the trained update but becomes the run's state only in the transaction that records the server's receipt. Local states are
sealed (AES-256-GCM) under a key in a file of its own: a copy of the keep alone does not show what methods keep to themselves.
"""

import os
import secrets
import sqlite3
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgehold.client.outbox import Parcel
from edgehold.core.database import Database
from edgehold.core.errors import IdentityError, JournalError, PolicyRefused, Stale
from edgehold.core.files import sync_folder
from edgehold.core.masks.journal import Revealed

_SCHEMA = """
CREATE TABLE IF NOT EXISTS task (
    run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, nonce BLOB NOT NULL,
    state TEXT NOT NULL, day TEXT NOT NULL, assignment BLOB NOT NULL,
    digest BLOB, length INTEGER, kind TEXT, local BLOB,
    PRIMARY KEY (run, round, attempt, nonce)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS local (run TEXT PRIMARY KEY, round INTEGER NOT NULL, state BLOB NOT NULL, before BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS peer (client TEXT PRIMARY KEY, key BLOB NOT NULL, issued REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mask (
    run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, nonce BLOB NOT NULL, state BLOB NOT NULL,
    digest BLOB, length INTEGER, kind TEXT, PRIMARY KEY (run, round, attempt, nonce)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revealed (
    federation TEXT NOT NULL, run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
    transcript BLOB NOT NULL, set_digest BLOB NOT NULL, PRIMARY KEY (federation, run, round, attempt)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS status (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_MINE = "WHERE run = ? AND round = ? AND attempt = ? AND nonce = ?"
_REMEMBERED_S = 31 * 86400.0
_SERVED_S = 86400.0
_NONCE = 12


class TaskKey(NamedTuple):
    """Names one task: the nonce is drawn per attempt by the server."""

    run: str
    round: int
    attempt: int
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A remembered task. assignment: the serialized TaskAssignment without its body; parcel: once trained."""

    key: TaskKey
    state: str
    assignment: bytes
    parcel: Parcel | None


@dataclass(frozen=True, slots=True)
class Stored:
    """A remembered task whose update is stored and not yet acknowledged."""

    key: TaskKey
    assignment: bytes
    parcel: Parcel


class Keep:
    """The file. Calls block on the disk, so the event loop makes them in a thread; a lock keeps one writer."""

    def __init__(self, path: Path) -> None:
        self._seal = AESGCM(_key(path.with_suffix(".key")))
        self._db = Database(path, _SCHEMA, "the device's keep")
        with self._db.transaction() as db:
            old = _day(time.time() - _REMEMBERED_S)
            db.execute("DELETE FROM task WHERE day < ? AND state IN ('acknowledged', 'dropped', 'cancelled')", (old,))
            db.execute(
                "DELETE FROM mask WHERE (run, round, attempt, nonce) NOT IN (SELECT run, round, attempt, nonce FROM task)"
            )

    def receive(self, key: TaskKey, assignment: bytes, rounds_per_day: int, now_s: float | None = None) -> Entry:
        """The task as remembered, or remembered from now on; `PolicyRefused` when today's rounds are used up.

        A round counts once a day, however many attempts it takes. now_s: seconds since 1970.
        """
        day = _day(time.time() if now_s is None else now_s)
        with self._db.transaction() as db:
            known = self._entry(db, key)
            if known is None:
                others = db.execute(
                    "SELECT COUNT(*) FROM (SELECT DISTINCT run, round FROM task WHERE day = ? AND NOT (run = ? AND round = ?))",
                    (day, key.run, key.round),
                ).fetchone()[0]
                if others >= rounds_per_day:
                    raise PolicyRefused(f"rounds_per_day allows {rounds_per_day} rounds and {others} were started today")
                db.execute(
                    "INSERT INTO task VALUES (?, ?, ?, ?, 'received', ?, ?, NULL, NULL, NULL, NULL)", (*key, day, assignment)
                )
            elif known.state == "cancelled":
                db.execute(f"UPDATE task SET state = 'received' {_MINE}", key)
            else:
                return known
        return Entry(key, "received", assignment, None)

    def trained(self, key: TaskKey, parcel: Parcel, local: bytes) -> bool:
        """Remember the stored update and the local state that belongs to it; False if the task was cancelled meanwhile."""
        with self._db.transaction() as db:
            done = db.execute(
                f"UPDATE task SET state = 'trained', digest = ?, length = ?, kind = ?, local = ? {_MINE} "
                "AND state = 'received'",
                (parcel.digest, parcel.length, parcel.kind, self._sealed(key.run, local), *key),
            )
            return done.rowcount == 1

    def retrain(self, key: TaskKey) -> None:
        """The stored update is lost (power cut before it was synced): the task is computed again."""
        with self._db.transaction() as db:
            db.execute(
                f"UPDATE task SET state = 'received', digest = NULL, length = NULL, kind = NULL, local = NULL {_MINE} "
                "AND state = 'trained'",
                key,
            )
            self._unmask_uncounted(db, key)

    def acknowledge(self, key: TaskKey) -> None:
        """The server's receipt is here: one transaction makes the round's local state the run's, and closes the task."""
        with self._db.transaction() as db:
            row = db.execute(f"SELECT local FROM task {_MINE} AND state = 'trained'", key).fetchone()
            if row is None:
                return
            db.execute(
                # Another attempt at the same round starts from what was there before the round, so `before` stays then.
                "INSERT INTO local (run, round, state, before) VALUES (?, ?, ?, NULL) ON CONFLICT (run) DO UPDATE SET "
                "before = CASE WHEN round = excluded.round THEN before ELSE state END, "
                "state = excluded.state, round = excluded.round",
                (key.run, key.round, row[0]),
            )
            db.execute(f"UPDATE task SET state = 'acknowledged', local = NULL {_MINE}", key)

    def cancel(self, key: TaskKey) -> None:
        """The server no longer wants the task. Once trained it may have left in part, so it is never done again."""
        with self._db.transaction() as db:
            db.execute(
                "UPDATE task SET state = CASE state WHEN 'received' THEN 'cancelled' ELSE 'dropped' END, local = NULL "
                f"{_MINE} AND state IN ('received', 'trained')",
                key,
            )
            self._unmask_uncounted(db, key)

    def drop(self, key: TaskKey) -> None:
        """The task is over without being counted."""
        with self._db.transaction() as db:
            db.execute(f"UPDATE task SET state = 'dropped', local = NULL {_MINE} AND state != 'acknowledged'", key)
            self._unmask_uncounted(db, key)

    @staticmethod
    def _unmask_uncounted(db: sqlite3.Connection, key: TaskKey) -> None:
        """Secrets of a sum go with its task, unless its vector is counted: then others wait for what only they give."""
        if not db.execute(f"SELECT 1 FROM task {_MINE} AND state = 'acknowledged'", key).fetchone():
            db.execute(f"DELETE FROM mask {_MINE}", key)

    def local(self, run: str, round: int) -> bytes | None:
        """Committed local state from which `round` starts; None at first contact.

        `Stale` when the run's state is already ahead: a server restored from an old backup must not take it back.
        """
        with self._db.reading() as db:
            row = db.execute("SELECT round, state, before FROM local WHERE run = ?", (run,)).fetchone()
        if row is None:
            return None
        at, state, before = cast(tuple[int, bytes, bytes | None], row)
        if at > round and self._opened(run, state):
            raise Stale(f"round {round} of run {run!r}, but this device's state is already that of round {at}")
        found = before if at == round else state
        return None if found is None else self._opened(run, found)

    def pin(self, client: str, key: bytes, issued_s: float) -> None:
        """Remember a peer's signing key (32 bytes) at first sight, and hold the peer to it.

        issued_s: of the certificate that names the key. Renewal keeps the key, so that another one means that the operator
        enrolled the peer afresh: believed only with a certificate younger than any seen for it, so that an old key, stolen
        perhaps, never comes back. Else `IdentityError`.
        """
        with self._db.transaction() as db:
            row = db.execute("SELECT key, issued FROM peer WHERE client = ?", (client,)).fetchone()
            if row is not None and row[0] != key and issued_s <= row[1]:
                raise IdentityError(f"{client!r} is known to this device by another signing key; its letter is not believed")
            newest = max(issued_s, row[1]) if row is not None else issued_s
            if row is None or (row[0], row[1]) != (key, newest):
                db.execute("INSERT OR REPLACE INTO peer VALUES (?, ?, ?)", (client, key, newest))

    def _sealed(self, run: str, local: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._seal.encrypt(nonce, local, run.encode())

    def _opened(self, run: str, sealed: bytes) -> bytes:
        try:
            return self._seal.decrypt(sealed[:_NONCE], sealed[_NONCE:], run.encode())
        except (InvalidTag, ValueError):
            raise JournalError(f"the local state of run {run!r} does not open: keep.key is not its key") from None

    def mask(self, key: TaskKey, state: bytes, parcel: Parcel | None = None) -> None:
        """Remember how far a masked sum is, sealed; parcel: the masked vector, once it is stored whole, which stays known.

        `Stale` for a task that is over: threads are not called off with it, and its secrets must not come back after they went.
        """
        at = (parcel.digest, parcel.length, parcel.kind) if parcel else (None, None, None)
        with self._db.transaction() as db:
            if not db.execute(f"SELECT 1 FROM task {_MINE} AND state IN ('trained', 'acknowledged')", key).fetchone():
                raise Stale(f"run {key.run!r} round {key.round}: the task is over for this device")
            db.execute(
                "INSERT INTO mask VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET state = excluded.state, "
                "digest = COALESCE(excluded.digest, digest), length = COALESCE(excluded.length, length), "
                "kind = COALESCE(excluded.kind, kind)",
                (*key, self._sealed(key.run, state), *at),
            )

    def masked(self, key: TaskKey) -> tuple[bytes, Parcel | None] | None:
        """What `mask` remembered last; None where nothing is."""
        with self._db.reading() as db:
            row = db.execute(f"SELECT state, digest, length, kind FROM mask {_MINE}", key).fetchone()
        if row is None:
            return None
        return self._opened(key.run, row[0]), Parcel(row[1], row[2], row[3]) if row[1] is not None else None

    def unmask(self, key: TaskKey) -> None:
        """The masked sum is over for this device: its secrets go."""
        with self._db.transaction() as db:
            db.execute(f"DELETE FROM mask {_MINE}", key)

    def unrevealed(self) -> list[tuple[TaskKey, bytes]]:
        """Masked sums whose masked vector is counted and whose round is not known to be over: key, and the assignment."""
        with self._db.reading() as db:
            rows = db.execute(
                "SELECT run, round, attempt, nonce, assignment FROM mask JOIN task USING (run, round, attempt, nonce) "
                "WHERE task.state = 'acknowledged' ORDER BY run, round, attempt"
            ).fetchall()
        return [(TaskKey(*row[:4]), row[4]) for row in rows]

    def masked_digests(self) -> set[bytes]:
        """Digests of the masked vectors that may still be sent."""
        with self._db.reading() as db:
            return {row[0] for row in db.execute("SELECT digest FROM mask WHERE digest IS NOT NULL").fetchall()}

    def revealed(self, federation: str, run: str, round_: int) -> list[Revealed]:
        """Sets of survivors that were answered in a round, whatever the attempt (`RevealJournal`)."""
        with self._db.reading() as db:
            rows = db.execute(
                "SELECT * FROM revealed WHERE federation = ? AND run = ? AND round = ? ORDER BY attempt",
                (federation, run, round_),
            ).fetchall()
        return [Revealed(*row) for row in rows]

    def write(self, revealed: Revealed) -> None:
        """Remember, before the answer leaves, that a set is answered (`RevealJournal`); `JournalError` for a second one."""
        with self._db.transaction() as db:
            db.execute("INSERT INTO revealed VALUES (?, ?, ?, ?, ?, ?)", astuple(revealed))

    def find(self, key: TaskKey) -> Entry | None:
        """The task as remembered, if it is."""
        with self._db.reading() as db:
            return self._entry(db, key)

    def unsettled(self) -> list[Stored]:
        """Tasks whose update is stored but whose receipt never came, oldest round first."""
        with self._db.reading() as db:
            rows = db.execute(
                "SELECT run, round, attempt, nonce, assignment, digest, length, kind FROM task "
                "WHERE state = 'trained' ORDER BY run, round, attempt"
            ).fetchall()
        return [Stored(TaskKey(*row[:4]), row[4], Parcel(*row[5:])) for row in rows]

    def letters(self, now_s: float | None = None) -> list[Stored]:
        """Counted updates that peers may ask for: of a run's newest two rounds (a quick device is done with the next round
        while a slow one still reads the last), and not older than a day. now_s: seconds since 1970.
        """
        since = _day((time.time() if now_s is None else now_s) - _SERVED_S)
        with self._db.reading() as db:
            rows = db.execute(
                "SELECT run, round, attempt, nonce, assignment, digest, length, kind FROM task AS one "
                "WHERE state = 'acknowledged' AND day >= ? AND round + 1 >= "
                "(SELECT MAX(round) FROM task WHERE run = one.run AND state = 'acknowledged')",
                (since,),
            ).fetchall()
        return [Stored(TaskKey(*row[:4]), row[4], Parcel(*row[5:])) for row in rows]

    def note(self, **values: object) -> None:
        """Remember the daemon's own state for `fl-client status`."""
        with self._db.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO status VALUES (?, ?)", [(key, str(value)) for key, value in values.items()])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @staticmethod
    def _entry(db: sqlite3.Connection, key: TaskKey) -> Entry | None:
        row = db.execute(
            f"SELECT run, round, attempt, nonce, state, assignment, digest, length, kind FROM task {_MINE}", key
        ).fetchone()
        return _entry(row) if row else None


def _key(path: Path) -> bytes:
    """The key in that file, drawn and synced when there is none; `JournalError` when it cannot be."""
    try:
        if not path.exists():
            draft = path.with_suffix(".draft")
            draft.unlink(missing_ok=True)
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
            sync_folder(path.parent)
        found = path.read_bytes()
    except OSError as error:
        raise JournalError(f"{path}: the key of the device's keep cannot be read: {error}") from None
    if len(found) != 32:
        raise JournalError(f"{path}: {len(found)} bytes; the key of the device's keep has 32")
    return found


def _entry(row: tuple[Any, ...]) -> Entry:
    parcel = Parcel(row[6], row[7], row[8]) if row[6] is not None else None
    return Entry(TaskKey(*row[:4]), row[4], row[5], parcel)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def read_status(path: Path) -> dict[str, Any]:
    """What the daemon last noted, tasks by state, and rounds started today; {} where no daemon ever ran."""
    if not path.exists():
        return {}
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        found: dict[str, Any] = dict(db.execute("SELECT key, value FROM status").fetchall())
        found["tasks"] = dict(db.execute("SELECT state, COUNT(*) FROM task GROUP BY state").fetchall())
        found["rounds_today"] = db.execute(
            "SELECT COUNT(*) FROM (SELECT DISTINCT run, round FROM task WHERE day = ?)", (_day(time.time()),)
        ).fetchone()[0]
        found["runs"] = dict(db.execute("SELECT run, round FROM local").fetchall())
        return found
    except sqlite3.Error as error:
        raise JournalError(f"{path}: cannot be read: {error}") from None
    finally:
        db.close()
