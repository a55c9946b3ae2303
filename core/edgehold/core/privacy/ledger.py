"""The ledger: every release is charged here, durably, before a byte of it exists outside. Append-only, hash-chained, one SQLite
file (WAL, every commit synced).

A line holds what was released (an event), for whom, and the limits in force then; nothing is ever refunded or changed. Budgets
belong to a data set, across runs and methods. Whoever saw a head (count and hash) can tell later whether the file still has it.
"""

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from edgehold.core import crashpoints
from edgehold.core.about import VERSION
from edgehold.core.database import Database
from edgehold.core.errors import BudgetSpent, ConfigError, JournalError, LedgerRolledBack
from edgehold.core.privacy import events
from edgehold.core.privacy.budget import Filter, Spent, best_filter

_TABLES = """
CREATE TABLE IF NOT EXISTS line (number INTEGER PRIMARY KEY, body TEXT NOT NULL, hash BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS charged (cause BLOB PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""
_LINES = "SELECT number, body, hash FROM line ORDER BY number"
_LABEL = b"edgehold ledger line 1"


@dataclass(frozen=True, slots=True)
class Limit:
    """What a data set's owner allows. epsilon above 0; delta in (0, 1)."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class Cause:
    """What a charge is for. One cause is charged once: asked again with the same events, the first line stands.

    key: names the task beyond run, round and attempt (its nonce).
    """

    run: str
    round: int
    attempt: int
    key: bytes
    method: str = ""

    @property
    def digest(self) -> bytes:
        """32 bytes that name the cause."""
        return _digest(self.run.encode(), b"%d" % self.round, b"%d" % self.attempt, self.key)


class Head(NamedTuple):
    """Where the ledger stands: `lines` so far, and the hash of the last one (32 zero bytes before the first)."""

    lines: int
    hash: bytes


class Line(NamedTuple):
    """One charge as it stands in the ledger. epsilon: of the data set after it, at its delta."""

    number: int
    dataset: str
    run: str
    round: int
    method: str
    events: tuple[events.Event, ...]
    epsilon: float
    limit: Limit
    time_unix_s: float


@dataclass
class _Account:
    """A data set: by which filter it is kept, chosen with its first charge, and what is spent."""

    filter: Filter
    spent: Spent = field(default_factory=Spent)


class Ledger:
    """The file at `path`, made when missing. `JournalError` when it cannot be read, or is not what was written to it.

    Calls block on the disk; any thread may make them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._accounts: dict[str, _Account] = {}
        self._vectors: dict[str, tuple[int, int]] = {}
        self._db = Database(path, _TABLES, "the privacy ledger")
        with self._db.reading() as db:
            rows = db.execute(_LINES).fetchall()
        self._hashes: list[bytes] = []
        for body in _checked(path, rows, self._hashes):
            self._follow(_booked(self._accounts, body))

    @property
    def head(self) -> Head:
        """Where the ledger stands."""
        return Head(len(self._hashes), self._hashes[-1] if self._hashes else bytes(32))

    def must_know(self, head: Head) -> None:
        """Return if `head` was this ledger's once; `LedgerRolledBack` when the file is older, or another one."""
        if head.lines == 0 or (head.lines <= len(self._hashes) and self._hashes[head.lines - 1] == head.hash):
            return
        raise LedgerRolledBack(
            f"the privacy ledger has {len(self._hashes)} lines, and another one of {head.lines} was seen before: this file was "
            "restored from a backup, or is another device's, and forgets what was released. Bring back the newest file; if it "
            "is lost, the budgets of this device's data sets must be taken as spent"
        )

    def epsilon(self, dataset: str, delta: float) -> float:
        """What everything charged for the data set so far amounts to at `delta`."""
        account = self._accounts.get(dataset)
        return account.spent.epsilon(account.filter, delta) if account else 0.0

    def covers(self, cause: Cause, released: Sequence[events.Event]) -> bool:
        """Whether exactly these events were charged for the cause before: by a process that died before anything was stored."""
        with self._db.transaction() as db:
            return self._charged(db, cause) == [json.loads(events.encode(event)) for event in released]

    def continues(self, event: events.Event) -> bool:
        """Whether the event follows what was charged for its error vector, if it has one that lives on.

        A round that is tried again starts from the vector before it: that is a fork, which the account of one vector does not
        cover. The device then starts a new one.
        """
        if not isinstance(event, events.ErrorFeedback):
            return True
        before = (event.earlier_steps, event.earlier_epochs)
        return before == self._vectors.get(event.vector, (0, 0)) if event.vector else before == (0, 0)

    def charge(self, dataset: str, limit: Limit, cause: Cause, released: Sequence[events.Event]) -> Head:
        """Write the events down, durably; then they may be released. `BudgetSpent`, and nothing written, when they do not fit.

        `JournalError` when the cause was charged before for other events, or the disk fails: nothing may be released then.
        """
        if not (limit.epsilon > 0 and 0 < limit.delta < 1):
            raise ConfigError(
                f"budget of {dataset!r}: epsilon = {limit.epsilon}, delta = {limit.delta}; allowed: above 0, in (0, 1)"
            )
        if not released:
            raise ConfigError(f"a charge to {dataset!r} without an event; what is released must be said")
        texts = [events.encode(event) for event in released]
        with self._db.transaction() as db:
            if db.execute("SELECT COALESCE(MAX(number), 0) FROM line").fetchone()[0] != len(self._hashes):
                # A second opinion on what is left would spend it twice.
                raise JournalError(f"{self._path}: another process writes this privacy ledger; nothing may be released")
            known = self._charged(db, cause)
            if known is not None:
                if known != [json.loads(text) for text in texts]:
                    raise JournalError(
                        f"{cause.run} round {cause.round} was charged before, for something else; the charge stays"
                    )
                return self.head
            if not all(map(self.continues, released)):
                raise JournalError("this error vector does not go on from where it was charged last; nothing may be released")
            account = self._accounts.get(dataset) or _Account(best_filter(released[0], limit.epsilon, limit.delta))
            spent = account.spent
            for event in released:
                spent = spent.plus(event, account.filter)
            after = spent.epsilon(account.filter, limit.delta)
            if not after <= limit.epsilon:
                before = account.spent.epsilon(account.filter, limit.delta)
                raise BudgetSpent(
                    f"data set {dataset!r}: {before:.4g} of epsilon {limit.epsilon:g} (delta {limit.delta:g}) is spent and "
                    f"this release would make it {after:.4g}; nothing was released"
                )
            body = {
                "cause": cause.digest.hex(), "code": VERSION, "dataset": dataset, "delta": limit.delta,
                "epsilon": limit.epsilon, "events": [json.loads(text) for text in texts], "method": cause.method,
                "order": account.filter.order, "round": cause.round, "run": cause.run, "salt": secrets.token_hex(16),
                "time_unix_s": round(time.time(), 3),
            }  # fmt: skip
            text, number = json.dumps(body, sort_keys=True), len(self._hashes) + 1
            hash_ = _digest(_LABEL, self.head.hash, text.encode())
            db.execute("INSERT INTO line VALUES (?, ?, ?)", (number, text, hash_))
            db.execute("INSERT INTO charged VALUES (?, ?)", (cause.digest, number))
            crashpoints.reach("charge_written")
        # Only now that it is on the disk.
        crashpoints.reach("charged")
        self._hashes.append(hash_)
        account.spent = spent
        self._accounts[dataset] = account
        self._follow(released)
        return self.head

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @staticmethod
    def _charged(db: sqlite3.Connection, cause: Cause) -> list[Any] | None:
        """Events charged for the cause, as JSON; None when it was not."""
        query = "SELECT body FROM line WHERE number = (SELECT number FROM charged WHERE cause = ?)"
        row = db.execute(query, (cause.digest,)).fetchone()
        return list(json.loads(row[0])["events"]) if row else None

    def _follow(self, released: Sequence[events.Event]) -> None:
        for event in released:
            if isinstance(event, events.ErrorFeedback) and event.vector:
                self._vectors[event.vector] = (event.earlier_steps + event.steps, event.earlier_epochs + event.epochs)


class Statement(NamedTuple):
    """lines: every charge, oldest first; spent: epsilon by data set."""

    lines: list[Line]
    spent: dict[str, float]


def read(path: Path, deltas: Mapping[str, float] | None = None) -> Statement:
    """The file, while a daemon may be using it; nothing where there is none. deltas: by data set, for what is spent; else that
    of its last charge.
    """
    found: list[Line] = []
    accounts: dict[str, _Account] = {}
    last: dict[str, float] = {}
    for number, body in enumerate(_bodies(path), 1):
        released = _booked(accounts, body)
        account, limit = accounts[body["dataset"]], Limit(body["epsilon"], body["delta"])
        last[body["dataset"]] = limit.delta
        epsilon = account.spent.epsilon(account.filter, limit.delta)
        where = (body["dataset"], body["run"], body["round"], body["method"])
        found.append(Line(number, *where, released, epsilon, limit, body["time_unix_s"]))
    at = last | {name: delta for name, delta in (deltas or {}).items() if name in last}
    return Statement(found, {name: one.spent.epsilon(one.filter, at[name]) for name, one in accounts.items()})


def _booked(accounts: dict[str, _Account], body: dict[str, Any]) -> tuple[events.Event, ...]:
    """The events of a line, added to its data set's account."""
    account = accounts.setdefault(body["dataset"], _Account(Filter(body["order"])))
    released = tuple(events.decode(json.dumps(event)) for event in body["events"])
    for event in released:
        account.spent = account.spent.plus(event, account.filter)
    return released


def _bodies(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            rows = db.execute(_LINES).fetchall()
        finally:
            db.close()
    except sqlite3.Error as error:
        raise JournalError(f"{path}: the privacy ledger cannot be read: {error}") from None
    yield from _checked(path, rows, [])


def _checked(path: Path, rows: Sequence[tuple[int, str, bytes]], hashes: list[bytes]) -> Iterator[dict[str, Any]]:
    """Bodies of the lines, once the chain holds up to each; appends their hashes."""
    before = bytes(32)
    for expected, (number, text, hash_) in enumerate(rows, 1):
        if number != expected or _digest(_LABEL, before, text.encode()) != hash_:
            raise JournalError(
                f"{path}: line {expected} of the privacy ledger is not what was written; nothing may be released"
            )
        before = hash_
        hashes.append(hash_)
        yield json.loads(text)


def _digest(*parts: bytes) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.digest()
