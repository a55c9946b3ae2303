"""Trained models of a study in one SQLite file, by what determines each: what is there is not trained again."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgehold.attacks.eval.cells import Cell, key
from edgehold.attacks.privacy.membership.train import Trained
from edgehold.core.database import Database
from edgehold.core.errors import ConfigError

FILE = "models.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS model (
  digest TEXT PRIMARY KEY, cell TEXT NOT NULL, facts TEXT NOT NULL, phi BLOB NOT NULL, public BLOB NOT NULL,
  seconds REAL NOT NULL, code TEXT NOT NULL, finished REAL NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A trained model. seconds: of the processor; commit: of the code that trained it."""

    trained: Trained
    seconds: float
    commit: str


class Store:
    """The file in `folder`, made when missing. Not the weights are kept, but what the model says of each record."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made: {error}", field="out") from None
        self._db = Database(folder / FILE, _SCHEMA, "the models of the study")

    def keep(self, cell: Cell, kept: Kept) -> None:
        """A model is finished."""
        one = kept.trained
        row = (
            key(cell), json.dumps(cell, sort_keys=True), json.dumps(dict(one.facts), sort_keys=True),
            one.phi.astype("<f8").tobytes(), one.public.astype("<f8").tobytes(), kept.seconds, kept.commit, time.time(),
        )  # fmt: skip
        with self._db.transaction() as db:
            db.execute("INSERT OR REPLACE INTO model VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def known(self) -> set[str]:
        """Digests of the cells that are there."""
        with self._db.reading() as db:
            return {str(row[0]) for row in db.execute("SELECT digest FROM model")}

    def models(self, cells: list[Cell]) -> Mapping[str, Kept]:
        """Those of these cells that are there, by digest."""
        found = {}
        with self._db.reading() as db:
            for cell in cells:
                row = db.execute(
                    "SELECT facts, phi, public, seconds, code FROM model WHERE digest = ?", (key(cell),)
                ).fetchone()
                if row:
                    facts, phi, public, seconds, code = row
                    trained = Trained(np.frombuffer(phi, "<f8"), np.frombuffer(public, "<f8"), json.loads(facts))
                    found[key(cell)] = Kept(trained, float(seconds), str(code))
        return found

    def close(self) -> None:
        """Close the file."""
        self._db.close()
