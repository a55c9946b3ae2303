"""Masked rounds as they stand in the journal: the draw's value, how far the round is, and what devices sent at each step.

Adverts and sealed shares are here, and the set of survivors (of the round itself). Revealed shares never are: with them and the
masked vectors a disk could be read for the sums; devices give them again.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgehold.core.errors import Duplicate, Stale
from edgehold.server.store.journal import Journal
from edgehold.server.store.records import Key

Step: TypeAlias = Literal["advertise", "share", "collect"]
"""What is waited for. Once the round itself is closing, no step of it is."""

_MINE = "run=? AND round=? AND attempt=?"


@dataclass(frozen=True, slots=True)
class MasksRow:
    """step: how far it is; value: what groups are drawn from; company: of each who was asked, see `core.masks.draw`."""

    step: Step
    value: bytes
    company: dict[str, int]


def plan(db: sqlite3.Connection, key: Key, value: bytes, company: Mapping[str, int]) -> None:
    """A masked round is planned."""
    text = json.dumps(dict(company), sort_keys=True)
    db.execute("INSERT INTO masks VALUES (?, ?, ?, 'advertise', ?, ?)", (*key, value, text))


def find(journal: Journal, key: Key) -> MasksRow | None:
    """Of this attempt; None for a round whose updates travel as they are."""
    rows = journal.read(f"SELECT step, value, company FROM masks WHERE {_MINE}", *key)
    return MasksRow(rows[0][0], rows[0][1], json.loads(rows[0][2])) if rows else None


def keep(db: sqlite3.Connection, key: Key, step: Step, client: str, body: bytes) -> None:
    """A message is here. `Duplicate` for another one than before, `Stale` once its step is over."""
    known = db.execute(f"SELECT body FROM mask_messages WHERE {_MINE} AND client=? AND step=?", (*key, client, step)).fetchone()
    if known:
        if known[0] != body:
            raise Duplicate(f"{client!r} sent another message for this step before; the first one stands")
        return
    row = db.execute(f"SELECT step FROM masks WHERE {_MINE}", key).fetchone()
    if row is None or row[0] != step:
        raise Stale(
            f"run {key[0]!r} round {key[1]}: this step of the masked sum is over; the next round asks this device again"
        )
    db.execute("INSERT INTO mask_messages VALUES (?, ?, ?, ?, ?, ?)", (*key, client, step, body))


def messages(journal: Journal, key: Key, step: Step) -> dict[str, bytes]:
    """What came at a step, by client."""
    query = f"SELECT client, body FROM mask_messages WHERE {_MINE} AND step=? ORDER BY client"
    return {client: body for client, body in journal.read(query, *key, step)}


def move(db: sqlite3.Connection, key: Key, step: Step) -> None:
    """On to the next step; messages of the one before are no longer taken."""
    db.execute(f"UPDATE masks SET step=? WHERE {_MINE}", (step, *key))


def forget(db: sqlite3.Connection, key: Key) -> None:
    """The attempt is over."""
    db.execute(f"DELETE FROM masks WHERE {_MINE}", key)
    db.execute(f"DELETE FROM mask_messages WHERE {_MINE}", key)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """chances: of being a liar, by client; company: of the void group a client was in last, of those in no good one since."""

    chances: dict[str, float]
    company: dict[str, int]


def suspicion(journal: Journal, run: str) -> Suspicion:
    """As it stands after the run's last committed round."""
    rows = journal.read("SELECT client, chance, company FROM suspects WHERE run=? ORDER BY client", run)
    return Suspicion({row[0]: row[1] for row in rows}, {row[0]: row[2] for row in rows if row[2]})


def suspect(db: sqlite3.Connection, run: str, found: Suspicion) -> None:
    """What a round taught, in the transaction that commits it."""
    db.execute("DELETE FROM suspects WHERE run=?", (run,))
    db.executemany(
        "INSERT INTO suspects VALUES (?, ?, ?, ?)",
        [(run, client, chance, found.company.get(client, 0)) for client, chance in sorted(found.chances.items())],
    )
