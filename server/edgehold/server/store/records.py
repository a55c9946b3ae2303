"""Runs and rounds as they stand in the journal: the rows, and the changes that move them."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from edgehold.core.contract import Facts, Packed
from edgehold.proto.v1.admin_pb2 import RoundInfo, RunInfo
from edgehold.server.store.blobs import BlobStore, file_blob
from edgehold.server.store.journal import Journal

RUN_STATES = ("queued", "running", "stopped", "finished", "failed")

Key: TypeAlias = tuple[str, int, int]


def name_of(key: Key) -> str:
    """Run, round and attempt as one name."""
    run, number, attempt = key
    return f"{run}.{number}.{attempt}"


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One attempt at one round."""

    run: str
    round: int
    attempt: int
    state: str
    nonce: bytes
    selection: tuple[str, ...]
    base: bytes
    survivors: tuple[str, ...] | None
    model: bytes | None
    packed: str | None
    facts: Facts

    @property
    def key(self) -> Key:
        """Primary key."""
        return self.run, self.round, self.attempt

    @property
    def name(self) -> str:
        """Run, round and attempt as one name: of the round key and of the spool folder."""
        return name_of(self.key)

    def info(self) -> RoundInfo:
        """For operators."""
        return RoundInfo(
            round=self.round,
            attempt=self.attempt,
            state=self.state,
            facts=self.facts,
            model_digest=self.model or b"",
            seconds=self.facts.get("round_seconds", 0.0),
        )


def ledger_head(journal: Journal, client: str) -> tuple[int, bytes]:
    """The newest head of its privacy ledger that the client showed: lines, and hash of the last; (0, b"") for none."""
    found = journal.read("SELECT lines, hash FROM ledgers WHERE client=?", client)
    return (int(found[0][0]), bytes(found[0][1])) if found else (0, b"")


def remember_ledger(db: sqlite3.Connection, client: str, lines: int, digest: bytes) -> None:
    """Keep the head, unless a newer one is known: an old copy of a ledger must not be taken for the newest."""
    db.execute(
        "INSERT INTO ledgers VALUES (?, ?, ?) ON CONFLICT (client) DO UPDATE SET lines = excluded.lines, hash = excluded.hash "
        "WHERE excluded.lines > lines",
        (client, lines, digest),
    )


_COLUMNS = "run, round, attempt, state, nonce, selection, base, survivors, model, packed, facts"


def _round(row: tuple[Any, ...]) -> RoundRow:
    survivors = None if row[7] is None else tuple(json.loads(row[7]))
    run, number, attempt, state, nonce, selection, base, _, model, packed, facts = row
    return RoundRow(
        run, number, attempt, state, nonce, tuple(json.loads(selection)), base, survivors, model, packed, json.loads(facts)
    )


def latest(journal: Journal, run: str) -> RoundRow | None:
    """The newest attempt of a run."""
    rows = journal.read(f"SELECT {_COLUMNS} FROM rounds WHERE run=? ORDER BY round DESC, attempt DESC LIMIT 1", run)
    return _round(rows[0]) if rows else None


def committed(journal: Journal, run: str, first: int = 0) -> list[RoundRow]:
    """Committed rounds from `first` on, in order."""
    rows = journal.read(
        f"SELECT {_COLUMNS} FROM rounds WHERE run=? AND round>=? AND state='committed' ORDER BY round", run, first
    )
    return [_round(row) for row in rows]


def last_committed(journal: Journal, run: str) -> RoundRow | None:
    """The round whose model is the run's model now."""
    rows = journal.read(f"SELECT {_COLUMNS} FROM rounds WHERE run=? AND state='committed' ORDER BY round DESC LIMIT 1", run)
    return _round(rows[0]) if rows else None


def plan_round(db: sqlite3.Connection, key: Key, nonce: bytes, selection: tuple[str, ...], base: bytes) -> None:
    """A round is planned: who is asked, under which nonce, from which model."""
    db.execute(
        "INSERT INTO rounds (run, round, attempt, state, nonce, selection, base) VALUES (?, ?, ?, 'planned', ?, ?, ?)",
        (*key, nonce, json.dumps(selection), base),
    )


def move_round(db: sqlite3.Connection, key: Key, state: str) -> None:
    """A round changes its state."""
    db.execute("UPDATE rounds SET state=? WHERE run=? AND round=? AND attempt=?", (state, *key))


def abandon_round(db: sqlite3.Connection, key: Key) -> bool:
    """A round is given up; False when it is over already, because committed never reopens."""
    where = "run=? AND round=? AND attempt=? AND state IN ('planned', 'open', 'closing')"
    return db.execute(f"UPDATE rounds SET state='abandoned' WHERE {where}", key).rowcount == 1


def freeze_round(db: sqlite3.Connection, key: Key) -> tuple[str, ...]:
    """No more updates: the survivors are the active clients with a receipt now, for good. In ascending order."""
    rows = db.execute(
        "SELECT client FROM receipts r JOIN clients c ON c.id = r.client"
        " WHERE run=? AND round=? AND attempt=? AND c.state='active' ORDER BY client",
        key,
    ).fetchall()
    survivors = tuple(row[0] for row in rows)
    db.execute(
        "UPDATE rounds SET state='closing', survivors=? WHERE run=? AND round=? AND attempt=?", (json.dumps(survivors), *key)
    )
    return survivors


def commit_round(db: sqlite3.Connection, key: Key, model: bytes, packed: str, facts: Facts) -> bool:
    """A round is over and its model is the run's model; False when it was over before: the first word on it stands."""
    where = "run=? AND round=? AND attempt=? AND state IN ('planned', 'open', 'closing')"
    change = f"UPDATE rounds SET state='committed', model=?, packed=?, facts=? WHERE {where}"
    return db.execute(change, (model, packed, json.dumps(facts), *key)).rowcount == 1


def add_facts(db: sqlite3.Connection, key: Key, facts: Facts) -> None:
    """Facts learned after the commit (scores)."""
    where = "WHERE run=? AND round=? AND attempt=?"
    (text,) = db.execute(f"SELECT facts FROM rounds {where}", key).fetchone()
    db.execute(f"UPDATE rounds SET facts=? {where}", (json.dumps(json.loads(text) | facts), *key))


def receipts(journal: Journal, key: Key) -> dict[str, tuple[bytes, bytes]]:
    """Client -> (name of the upload, payload digest), for every receipt of an attempt."""
    rows = journal.read("SELECT client, upload, payload FROM receipts WHERE run=? AND round=? AND attempt=?", *key)
    return {client: (upload, payload) for client, upload, payload in rows}


def write_letter(db: sqlite3.Connection, key: Key, client: str, head: bytes) -> None:
    """An update that peers will read is admitted: what its sender signed stays beside its receipt."""
    db.execute("INSERT INTO letters (run, round, attempt, client, head) VALUES (?, ?, ?, ?, ?)", (*key, client, head))


def settle_letters(db: sqlite3.Connection, key: Key, survivors: Sequence[str], last: bool, relayed: bool) -> None:
    """A round is committed: the run's letters are its survivors', and no others; none after the last round.

    relayed: their bytes stay in the round's spool, so that its key outlives the round.
    """
    db.execute("DELETE FROM letters WHERE run=? AND NOT (round=? AND attempt=?)", key)
    counted = set(() if last else survivors)
    for (client,) in db.execute("SELECT client FROM letters WHERE run=?", key[:1]).fetchall():
        if client not in counted:
            db.execute("DELETE FROM letters WHERE run=? AND client=?", (key[0], client))
    db.execute("UPDATE letters SET relayed=? WHERE run=?", (int(relayed), key[0]))


def forget_letters(db: sqlite3.Connection, key: Key) -> None:
    """An attempt is abandoned: nobody will read what was sent to it."""
    db.execute("DELETE FROM letters WHERE run=? AND round=? AND attempt=?", key)


@dataclass(frozen=True, slots=True)
class LetterRow:
    """A letter of the run's last committed round. upload: name of its file in that round's spool; head: serialized."""

    client: str
    key: Key
    upload: bytes
    length: int
    head: bytes
    relayed: bool


def letters(journal: Journal, run: str) -> list[LetterRow]:
    """The letters of the run's last committed round, by sender."""
    rows = journal.read(
        "SELECT client, round, attempt, upload, length, head, relayed FROM letters"
        " JOIN receipts USING (run, round, attempt, client) JOIN rounds USING (run, round, attempt)"
        " WHERE run=? AND state='committed' ORDER BY client",
        run,
    )
    return [
        LetterRow(client, (run, number, attempt), upload, length, head, bool(relayed))
        for client, number, attempt, upload, length, head, relayed in rows
    ]


def live_rounds(journal: Journal) -> set[str]:
    """Names of the rounds whose keys and spools are still needed: those under way, and those whose letters are relayed."""
    rows = journal.read(
        "SELECT run, round, attempt FROM rounds WHERE state IN ('planned', 'open', 'closing')"
        " UNION SELECT run, round, attempt FROM letters WHERE relayed=1"
    )
    return {name_of((run, number, attempt)) for run, number, attempt in rows}


def pack(packed: Packed) -> str:
    """A method's state as JSON: scalars, and each blob by digest (they are in the store already)."""
    blobs = {}
    for name, blob in packed.blobs.items():
        blobs[name] = file_blob(blob).digest.hex()
    return json.dumps({"scalars": dict(packed.scalars), "blobs": blobs}, sort_keys=True)


def unpack(text: str, store: BlobStore) -> Packed:
    """Inverse of `pack`."""
    data = json.loads(text)
    return Packed({name: store.open(bytes.fromhex(digest)) for name, digest in data["blobs"].items()}, data["scalars"])


def blob_digests(text: str) -> set[bytes]:
    """Digests of all blobs of a packed state."""
    return {bytes.fromhex(digest) for digest in json.loads(text)["blobs"].values()}


def pinned(journal: Journal, keep_models: int) -> set[bytes]:
    """Digests of every blob some run still needs: its initial model, and the states of its newest committed rounds."""
    keep: set[bytes] = set()
    for run, initial in journal.read("SELECT id, initial FROM runs"):
        keep.add(initial)
        rows = journal.read(
            "SELECT packed FROM rounds WHERE run=? AND state='committed' ORDER BY round DESC LIMIT ?", run, keep_models
        )
        keep = keep.union(*(blob_digests(packed) for (packed,) in rows))
    return keep


def run_info(journal: Journal, run: str, method: Mapping[str, Any], task: str, rounds: int) -> RunInfo:
    """A run for operators. method: the plan's [method] table."""
    ((digest, state, error, created, seconds),) = journal.read(
        "SELECT digest, state, error, created, seconds FROM runs WHERE id=?", run
    )
    newest = last_committed(journal, run)
    info = RunInfo(
        run=run, state=state, error=error, plan_digest=digest, created_unix_s=created, seconds=seconds, task=task,
        method=str(method.get("name", "")), rule=str(method.get("rule", "")), rounds_planned=rounds,
    )  # fmt: skip
    if newest:
        info.rounds_done = newest.round
        info.model_digest = newest.model or b""
        info.latest.CopyFrom(newest.info())
    return info
