"""A matrix and its finished cells in one SQLite file: what is there is not played again, and a report needs nothing else."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgehold.attacks.eval.cells import Cell, key
from edgehold.attacks.matrix.play import Outcome
from edgehold.core.database import Database
from edgehold.core.errors import ConfigError

FILE = "matrix.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS matrix (one INTEGER PRIMARY KEY CHECK (one = 1), digest TEXT NOT NULL, text TEXT NOT NULL,
  missing TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cell (
  digest TEXT PRIMARY KEY, cell TEXT NOT NULL, seed INTEGER NOT NULL, facts TEXT NOT NULL, error TEXT NOT NULL,
  seconds REAL NOT NULL, code TEXT NOT NULL, finished REAL NOT NULL);
CREATE TABLE IF NOT EXISTS wall (started REAL NOT NULL, seconds REAL NOT NULL, cells INTEGER NOT NULL, workers INTEGER NOT NULL,
  load REAL NOT NULL);
"""


class Store:
    """The file in `folder`, made when missing. Cells are named by the SHA-256 of what determines them (seed included)."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made: {error}", field="out") from None
        self._db = Database(folder / FILE, _SCHEMA, "the cells of the matrix")

    @staticmethod
    def there(folder: Path) -> "Store":
        """The one in a folder; `ConfigError` where there is none."""
        if not (folder / FILE).is_file():
            raise ConfigError(
                f"{folder}: no matrix was played here; `fl-eval matrix quick --out {folder}` plays one", field="dir"
            )
        return Store(folder)

    def bind(self, text: str, digest: str, missing: Sequence[str]) -> None:
        """This is the matrix now; cells of an earlier one that it shares stay good. missing: data that were not there."""
        with self._db.transaction() as db:
            db.execute("INSERT OR REPLACE INTO matrix VALUES (1, ?, ?, ?)", (digest, text, json.dumps(list(missing))))

    def bound(self) -> tuple[str, list[str]]:
        """The matrix file as it was given, and the data that were left out."""
        with self._db.reading() as db:
            row = db.execute("SELECT text, missing FROM matrix").fetchone()
        if row is None:
            raise ConfigError("no matrix is kept here: the command that made the file was killed at once; play it again")
        return str(row[0]), list(json.loads(row[1]))

    def keep(self, cell: Cell, outcome: Outcome) -> None:
        """A cell is finished, or has crashed."""
        row = (
            key(cell), json.dumps(cell, sort_keys=True), cell["seed"], json.dumps(dict(outcome.facts), sort_keys=True),
            outcome.error, outcome.seconds, outcome.commit, time.time(),
        )  # fmt: skip
        with self._db.transaction() as db:
            db.execute("INSERT OR REPLACE INTO cell VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def outcomes(self) -> Mapping[str, Outcome]:
        """Digest of a cell -> what became of it."""
        with self._db.reading() as db:
            rows = db.execute("SELECT digest, facts, seconds, code, error FROM cell").fetchall()
        return {digest: Outcome(json.loads(facts), seconds, code, error) for digest, facts, seconds, code, error in rows}

    def clock(self, started: float, seconds: float, cells: int, workers: int, load: float) -> None:
        """One call of the command: wall time, cells that it played, processes, the machine's load average at its beginning."""
        with self._db.transaction() as db:
            db.execute("INSERT INTO wall VALUES (?, ?, ?, ?, ?)", (started, seconds, cells, workers, load))

    def calls(self) -> list[dict[str, float]]:
        """Every call, in order."""
        with self._db.reading() as db:
            rows = db.execute("SELECT started, seconds, cells, workers, load FROM wall ORDER BY started").fetchall()
        return [dict(zip(("started", "seconds", "cells", "workers", "load"), row, strict=True)) for row in rows]

    def close(self) -> None:
        """Close the file."""
        self._db.close()
