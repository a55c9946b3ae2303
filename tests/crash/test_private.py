"""A private device killed at every point of charge and release: same model, one charge per round, nothing sent uncharged."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edgehold.attacks.testbed import Federation, eventually
from edgehold.core.crashpoints import EXIT_CODE, VARIABLE
from edgehold.core.privacy import ledger

ROOT = str(Path(__file__).resolve().parents[2])
ENTRY = "edgehold.client.data.tasks:make_task"
POINTS = (
    "task_received", "charge_written", "charged", "trained_not_stored", "stored_not_sent", "uploaded_no_receipt",
    "receipt_not_recorded", "recorded",
)  # fmt: skip
ROUNDS = len(POINTS)


def plan(reset: bool) -> str:
    return f"""
[run]
name = "private"
rounds = {ROUNDS}
task = "digits"
seed = 3
[cohort]
size = 1
quorum = 1
over_select = 1.0
[evaluation]
every = 0
[method]
name = "dp_ef_sgd"
clip = 0.1
ceiling = 0.3
noise_multiplier = 30.0
bins = 2
batch_size = 20
learning_rate = 4.0
reset = {str(reset).lower()}
"""


def options(index: int) -> dict[str, Any]:
    return {"dataset": "digits", "device_index": index, "devices": 1, "model": "logistic", "limit": 40}


def played(folder: Path, points: tuple[str, ...], reset: bool) -> bytes:
    """Digest of the model after a run whose device is killed at each of the points, and restarted each time."""
    budgets = {"digits": (8.0, 1e-5)}
    with Federation(folder, tasks={"digits": (ENTRY, options(-1))}) as bed:
        bed.start_server()
        bed.add_client("dev-0", {"digits": (ENTRY, options(0))}, ("tests.support.fixed_noise:make", {}), budgets)
        submitted = False
        for point in (*points, ""):
            bed.start_client("dev-0", {"PYTHONPATH": ROOT, VARIABLE: point})
            if not submitted:
                bed.wait_connected(1)
                bed.submit(plan(reset))
                submitted = True
            if not point:
                break
            assert bed.clients["dev-0"].wait(60.0) == EXIT_CODE, point
            assert receipts(bed) <= {line.round for line in ledger.read(folder / "dev-0" / "ledger.db").lines}, point
        eventually(lambda: bed.info("private").state != "running", 60.0, "the run's end")
        info = bed.info("private")
        assert (info.state, info.rounds_done) == ("finished", ROUNDS), info
        bed.stop()
    lines = ledger.read(folder / "dev-0" / "ledger.db").lines
    assert [(line.run, line.round) for line in lines] == [("private", number) for number in range(1, ROUNDS + 1)]
    return info.model_digest


def receipts(bed: Federation) -> set[int]:
    """Rounds of which the server holds an update."""
    with contextlib.closing(sqlite3.connect(f"file:{bed.home / 'journal.db'}?mode=ro", uri=True)) as db:
        return {number for (number,) in db.execute("SELECT round FROM receipts")}


@pytest.mark.slow
@pytest.mark.parametrize("reset", [True, False])
def test_a_killed_device_charges_once_and_gives_the_same_model(tmp_path: Path, reset: bool) -> None:
    assert played(tmp_path / "killed", POINTS, reset) == played(tmp_path / "calm", (), reset)


CENTRAL = ("charge_written", "charged", "round_charged", "summed", "stored", "commit_journaled")


@pytest.mark.slow
def test_a_killed_server_charges_each_round_once(tmp_path: Path) -> None:
    """Noise is drawn again after a restart: the first draw never left. Who was counted is fixed, and so is what was charged."""
    task, rounds = ("edgehold.client.data.synthetic:make_task", {"values": 100}), len(CENTRAL) + 1
    text = (
        f'[run]\nname = "central"\nrounds = {rounds}\ntask = "numbers"\n[cohort]\nsize = 1\nquorum = 1\nover_select = 1.0\n'
        '[evaluation]\nevery = 0\n[method]\nname = "dp_fedavg"\nnoise_multiplier = 5.0\nquantile = 0.0\n'
    )
    budgets = {"budgets.numbers": {"max_epsilon": 8.0, "delta": 1e-5}}
    with Federation(tmp_path, tasks={"numbers": task}, server=budgets) as bed:
        bed.start_server()
        bed.add_client("dev-0", {"numbers": task})
        bed.start_client("dev-0")
        bed.daemon.stop()
        # Armed at once: left alone for a moment, the server would finish the run.
        bed.start_server({VARIABLE: CENTRAL[0]})
        bed.wait_connected(1)
        bed.submit(text)
        for point in CENTRAL:
            if point != CENTRAL[0]:
                bed.daemon.start({VARIABLE: point})  # it may die before it says that it is ready
            assert bed.daemon.wait(60.0) == EXIT_CODE, point
            committed = rounds_of(bed, "committed")
            assert committed <= {line.round for line in ledger.read(bed.home / "ledger.db").lines}, point
        bed.start_server()
        eventually(lambda: bed.info("central").state != "running", 60.0, "the run's end")
        info = bed.info("central")
    assert (info.state, info.rounds_done) == ("finished", rounds), info
    assert [line.round for line in ledger.read(bed.home / "ledger.db").lines] == list(range(1, rounds + 1))


def rounds_of(bed: Federation, state: str) -> set[int]:
    with contextlib.closing(sqlite3.connect(f"file:{bed.home / 'journal.db'}?mode=ro", uri=True)) as db:
        return {number for (number,) in db.execute("SELECT round FROM rounds WHERE state = ?", (state,))}
