"""FRL with LeNet on Fashion-MNIST over ten real client daemons, and the same plan in one process: see `frl_images`.

A long command. Server and clients are processes of their own on loopback, with mutual TLS, journals and signed updates. The
liars are two of the daemons, with an `[adversary]` in their configuration, and share their rankings through a folder.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgehold.attacks.eval.bars import Bar, Report, mean_spread
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.daemons import federated, names
from edgehold.attacks.eval.reproductions import Options
from edgehold.attacks.eval.reproductions.frl_images import BOOST, CLEAN, REVERSE, Study
from edgehold.server import engine

NAME = "frl_daemons"
SUMMARY = "Rank votes, LeNet on Fashion-MNIST, ten real client daemons (long): the model of one process; needs --data"
_ROWS = (
    ("frl", "", CLEAN), ("frl", "", REVERSE), ("fedavg", "average", CLEAN), ("fedavg", "average", BOOST),
)  # fmt: skip
_STUDY = Study(
    NAME, "fashion-mnist", "lenet", epochs=2, rounds=10, records=200, tests=2000, clients=10, cohort=10, liars=2, rows=_ROWS
)
_CLIENTS = names(_STUDY.clients)
_PEERS_S = 600.0
cells = _STUDY.cells


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """Accuracy and bytes over daemons; same: 1.0 when the model is that of one process, bit for bit."""
    with tempfile.TemporaryDirectory(prefix="daemons-") as folder:
        digest, value = _federated(Path(folder) / "bed", cell, data)
        store = engine.Store(Path(folder) / "engine.sqlite")
        try:
            alone = _STUDY.simulate(cell, data, store)
            kept = store.kept()
            assert kept is not None
            blob = kept.packed.blobs["model"]
            same = hashlib.sha256(blob.read(0, blob.size)).digest() == digest
        finally:
            store.close()
    return {**value, "same": float(same), "accuracy_alone": alone.rounds[-1]["accuracy"]}


def judge(options: Options, played: Sequence[Played]) -> Report:
    """The bars of the study, and that no model differs from the one process's."""
    report = _STUDY.judge(options, played)
    strays = [1.0 - one.value["same"] for one in played]
    bars = [*report.bars, Bar("models that differ from those of one process, share", 0.0, *mean_spread(strays))]
    notes = [f"One server and {len(_CLIENTS)} client processes over mutual TLS; the liars are two of them.",
             *report.notes]  # fmt: skip
    return replace(report, bars=bars, notes=notes)


def _federated(folder: Path, cell: Cell, data: Path | None) -> tuple[bytes, dict[str, float]]:
    """Digest of the final model, and what the last round says."""
    lie = _adversary(cell, folder / "colluders")
    liars = {client: lie for client in _CLIENTS[: _STUDY.liars]} if lie else {}
    info = federated(folder, _STUDY.plan(cell), _STUDY.dealt(cell, data), _STUDY.clients, liars)
    facts = info.latest.facts
    return info.model_digest, {
        "accuracy": facts["accuracy"],
        "update_bytes": facts["bytes_up"] / facts["clients_admitted"],
    }


def _adversary(cell: Cell, folder: Path) -> tuple[str, dict[str, Any]] | None:
    shared = {"folder": str(folder), "colluders": _STUDY.liars, "cohort": _STUDY.cohort, "wait_s": _PEERS_S}
    return {
        CLEAN: None,
        BOOST: ("edgehold.attacks.byzantine.sign_flip:make", {"scale": 5.0}),
        REVERSE: ("edgehold.attacks.byzantine.ranks:make", {"lie": REVERSE, **shared}),
    }[cell["attack"]]
