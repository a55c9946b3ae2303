"""A method with a memory on the device: dying at any point, it is never a round ahead of the server, nor two behind."""

import contextlib
import os
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgehold.attacks.testbed import Federation, eventually
from edgehold.core.crashpoints import EXIT_CODE, VARIABLE
from edgehold.server.config import keys_folder, load

REPOSITORY = Path(__file__).parents[2]
ENTRY = "edgehold.client.data.synthetic:make_task"
VALUES = 600_000
DEVICE = "dev-0"
ROUNDS = 14
PATH = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))

# In this order: each is reached in a later round than the one before, or later in the same.
BEFORE_STORING = ("task_received", "trained_not_stored")
AFTER_STORING = (
    "stored_not_sent",
    "upload_started",
    "mid_upload",
    "uploaded_no_receipt",
    "receipt_not_recorded",
    "recorded",
)


def plan(rounds: int, size: int) -> str:
    return (
        f'[run]\nname = "memory"\nrounds = {rounds}\ntask = "numbers"\n'
        f"[cohort]\nsize = {size}\nquorum = {size}\nover_select = 1.0\n"
        '[evaluation]\nevery = 0\n[method]\nname = "fedavg"\n'
    )


def rows(path: Path, query: str) -> list[tuple[int, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


def memory(keep: Path) -> int:
    """Rounds the device's committed state has seen."""
    found = rows(keep, "SELECT round FROM local WHERE run='memory'")
    state = rows(keep, "SELECT hex(state) FROM local WHERE run='memory'")
    if found:
        sealed = bytes.fromhex(str(state[0][0]))
        opened = AESGCM(keep.with_suffix(".key").read_bytes()).decrypt(sealed[:12], sealed[12:], b"memory")
        assert int.from_bytes(opened, "little") == found[0][0]
    return found[0][0] if found else 0


def acknowledged(keep: Path) -> int:
    return rows(keep, "SELECT COUNT(*) FROM task WHERE state='acknowledged'")[0][0]


def works(log: Path) -> Counter[int]:
    """How often the method worked from each state of its memory."""
    return Counter(map(int, log.read_text().split()))


@pytest.mark.slow
def test_the_memory_moves_once_per_receipt_and_an_update_is_made_once(tmp_path: Path) -> None:
    log, keep, journal = tmp_path / "work.log", tmp_path / DEVICE / "keep.db", tmp_path / "server" / "journal.db"

    def receipts() -> int:
        return rows(journal, "SELECT COUNT(*) FROM receipts")[0][0]

    with Federation(tmp_path, tasks={"numbers": (ENTRY, {"values": VALUES})}) as bed:
        bed.start_server()
        bed.add_client(DEVICE, {"numbers": (ENTRY, {"values": VALUES})}, ("tests.crash.stateful:make", {"log": str(log)}))
        for i, point in enumerate((*BEFORE_STORING, *AFTER_STORING)):
            bed.start_client(DEVICE, {VARIABLE: point, "PYTHONPATH": PATH})
            if i == 0:
                bed.wait_connected(1)
                bed.submit(plan(ROUNDS, 1))
            assert bed.clients[DEVICE].wait(30.0) == EXIT_CODE, point
            if point == "receipt_not_recorded":
                assert receipts() == memory(keep) + 1
            elif point == "recorded":
                assert receipts() == memory(keep)
            else:
                assert memory(keep) <= receipts() <= memory(keep) + 1
            # Stored, or even sent, and still only waiting for its receipt.
            trained = rows(keep, "SELECT COUNT(*) FROM task WHERE state='trained'")[0][0]
            assert trained == (1 if point in AFTER_STORING and point != "recorded" else 0), point
        bed.start_client(DEVICE, {"PYTHONPATH": PATH})
        eventually(lambda: bed.info("memory").state != "running", 30.0, "the run's end")
        assert (bed.info("memory").state, bed.info("memory").rounds_done) == ("finished", ROUNDS)
        eventually(lambda: memory(keep) == ROUNDS, 10.0, "the last receipt to be recorded")
        eventually(lambda: not list((tmp_path / DEVICE / "outbox").iterdir()), 10.0, "an empty outbox")

    # Every round started from the memory of the one before. Only what died before it was stored was made again.
    found = works(log)
    assert sorted(found) == list(range(ROUNDS))
    assert sum(found.values()) == ROUNDS + 1, "an update that may have left the device was made a second time"
    assert max(found.values()) == 2
    # What the server counted is byte for byte what the device stored, however often it was sent.
    stored = rows(keep, "SELECT round, attempt, hex(digest) FROM task WHERE state='acknowledged' ORDER BY round")
    assert stored == rows(journal, "SELECT round, attempt, hex(payload) FROM receipts ORDER BY round")
    assert len({digest for _, _, digest in stored}) == ROUNDS, "the noise repeated"


@pytest.mark.slow
def test_a_round_that_starts_again_starts_from_the_memory_before_it(tmp_path: Path) -> None:
    """The device has its receipt and has moved on; then the server loses the round's key and asks for the round again."""
    log, keep = tmp_path / "work.log", tmp_path / DEVICE / "keep.db"
    tasks = {"numbers": (ENTRY, {"values": 1000})}
    with Federation(tmp_path, tasks=tasks) as bed:
        bed.start_server()
        bed.add_client(DEVICE, tasks, ("tests.crash.stateful:make", {"log": str(log)}))
        bed.add_client("dev-1", tasks)
        bed.start_client(DEVICE, {"PYTHONPATH": PATH})
        bed.start_client("dev-1", {VARIABLE: "task_received:3"})
        bed.wait_connected(2)
        bed.submit(plan(5, 2))
        for attempt in (1, 2):
            assert bed.clients["dev-1"].wait(30.0) == EXIT_CODE
            eventually(lambda: acknowledged(keep) == 2 + attempt, 20.0, "the receipt of the third round")  # noqa: B023
            assert memory(keep) == 3
            bed.daemon.stop(9)
            (key,) = keys_folder(load(bed.home), bed.home).iterdir()
            assert key.name == f"memory.3.{attempt}"
            key.unlink()
            bed.start_server()
            bed.start_client("dev-1", {VARIABLE: "task_received"} if attempt == 1 else None)
        eventually(lambda: bed.info("memory").state != "running", 30.0, "the run's end")
        assert (bed.info("memory").state, bed.info("memory").rounds_done) == ("finished", 5)
        eventually(lambda: memory(keep) == 5, 10.0, "the last receipt to be recorded")
    assert works(log) == {0: 1, 1: 1, 2: 3, 3: 1, 4: 1}
