"""What the server of a run was able to see, kept on purpose: orders and admitted updates of named rounds, in one SQLite file.

For audits, by whoever runs the server and asks for it; nothing is recorded otherwise. A recorded update no longer dies with its
round's key, so that the file is for its owner alone, and a plan that asks for masks is never recorded.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgehold.core.config import convert
from edgehold.core.contract import Payload
from edgehold.core.database import Database
from edgehold.core.errors import ConfigError
from edgehold.core.plan import Plan
from edgehold.core.vectors import Bytes, Schema
from edgehold.defenses import registry

FORMAT = "edgehold transcript 1"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (format TEXT NOT NULL, plan TEXT NOT NULL, schema TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS orders (round INTEGER PRIMARY KEY, attempt INTEGER NOT NULL, header BLOB NOT NULL,
    body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS updates (round INTEGER, client TEXT, header BLOB NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (round, client));
"""


class Transcript:
    """The file at `path` for one run, made when missing. rounds: the ones to keep; empty: all.

    `ConfigError` for a plan that asks for masks, or a file that holds another run.
    """

    def __init__(self, path: Path, plan: Plan, schema: Schema, rounds: Collection[int] = ()) -> None:
        must_be_open(plan)
        self._rounds = frozenset(rounds)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._db = Database(path, _SCHEMA, "the transcript")
        mine = (FORMAT, msgspec.json.encode(plan, order="deterministic").decode(), schema.to_json())
        with self._db.transaction() as db:
            found = db.execute("SELECT format, plan, schema FROM run").fetchone()
            if found is None:
                db.execute("INSERT INTO run VALUES (?, ?, ?)", mine)
        if found is not None and tuple(found) != mine:
            self._db.close()
            raise ConfigError(f"{path}: holds the transcript of another run; name another file", field="transcript")

    def wants(self, number: int) -> bool:
        """Whether this round is to be kept."""
        return not self._rounds or number in self._rounds

    def keep(self, number: int, attempt: int, order: Payload, updates: Mapping[str, Payload]) -> None:
        """A round as it counted: its order and the updates that are folded. Kept again after a crash: the same."""
        if not self.wants(number):
            return
        with self._db.transaction() as db:
            db.execute("DELETE FROM updates WHERE round=?", (number,))
            db.execute("INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?)", (number, attempt, order.header, _whole(order)))
            for client, update in sorted(updates.items()):
                db.execute("INSERT INTO updates VALUES (?, ?, ?, ?)", (number, client, update.header, _whole(update)))

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def must_be_open(plan: Plan) -> None:
    """`ConfigError` when the plan promises devices that nobody sees their single updates."""
    if plan.privacy.masked:
        raise ConfigError(
            f"run {plan.run.name!r} asks for masks (privacy.masked = true): its single updates are nobody's to record; "
            "leave out the transcript",
            field="privacy.masked",
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """One client's round. order, update: decoded, of the method's own types."""

    round: int
    client: str
    order: Any
    update: Any


@dataclass(slots=True)
class Recorded:
    """A transcript as it is read: updates go through the method's law again, for a file is bytes from outside too."""

    path: Path
    plan: Plan
    schema: Schema
    index: tuple[tuple[int, str], ...]
    _db: Database = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> "Recorded":
        """`ConfigError` when it is missing or no transcript."""
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; `fl-eval simulate ... --transcript FILE` makes one", field="transcript")
        with path.open("rb") as file:
            begins = file.read(16)
        if begins != b"SQLite format 3\0":
            raise ConfigError(f"{path}: not a transcript (no SQLite file)", field="transcript")
        db = Database(path, "", "the transcript")
        try:
            return cls._read(path, db)
        except BaseException:
            db.close()
            raise

    @classmethod
    def _read(cls, path: Path, db: Database) -> "Recorded":
        with db.reading() as rows:
            tables = {name for (name,) in rows.execute("SELECT name FROM sqlite_master WHERE type='table'")}
            if not {"run", "orders", "updates"} <= tables:
                raise ConfigError(f"{path}: not a transcript (tables {sorted(tables)})", field="transcript")
            form, plan, schema = rows.execute("SELECT format, plan, schema FROM run").fetchone() or ("nothing", "", "")
            index = tuple(rows.execute("SELECT round, client FROM updates ORDER BY round, client"))
        if form != FORMAT:
            raise ConfigError(f"{path}: {form!r}; this release reads {FORMAT!r}", field="transcript")
        try:
            read = convert(_said(msgspec.json.decode(plan)), Plan, str(path))
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path}: its plan is no JSON: {error}", field="transcript") from None
        return cls(path, read, Schema.from_json(schema), index, db)

    @property
    def method(self) -> str:
        """Name of the run's method."""
        return str(self.plan.method["name"])

    def entries(self, rounds: Collection[int] = (), clients: Collection[str] = ()) -> Iterator[Entry]:
        """Those of these rounds and clients; empty: all. `RejectedUpdate` for bytes that break the method's law,
        `ConfigError` for updates without their order.
        """
        table = {key: value for key, value in self.plan.method.items() if key != "name"}
        settings = convert(table, registry.method(self.method).settings, str(self.path), "method")
        codec = registry.codec(self.method, settings)
        for number, client in self.index:
            if (rounds and number not in rounds) or (clients and client not in clients):
                continue
            with self._db.reading() as db:
                order = db.execute("SELECT header, body FROM orders WHERE round=?", (number,)).fetchone()
                update = db.execute("SELECT header, body FROM updates WHERE round=? AND client=?", (number, client)).fetchone()
            if order is None:
                raise ConfigError(
                    f"{self.path}: round {number} has updates and no order; it was cut or changed", field="transcript"
                )
            yield Entry(
                number, client, codec.decode_order(Payload(order[0], Bytes(order[1])), self.schema),
                codec.decode_update(Payload(update[0], Bytes(update[1])), self.schema),
            )  # fmt: skip

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _said(plan: Any) -> Any:
    """The plan without the quorum that nobody named: its place holder 0 is no legal one."""
    if isinstance(plan, dict) and isinstance(cohort := plan.get("cohort"), dict) and cohort.get("quorum") == 0:
        plan = plan | {"cohort": {key: value for key, value in cohort.items() if key != "quorum"}}
    return plan


def _whole(payload: Payload) -> bytes:
    return bytes(payload.body.read(0, payload.body.size))
