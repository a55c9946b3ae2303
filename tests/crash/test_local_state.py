"""A method with a memory on the device: dying at any point, it is never a round ahead of the server, nor two behind."""

import contextlib
import os
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from edgehold.attacks.testbed import Federation, eventually
from edgehold.core.crashpoints import EXIT_CODE, VARIABLE

REPOSITORY = Path(__file__).parents[2]
ENTRY = "edgehold.client.data.synthetic:make_task"
VALUES = 600_000
DEVICE = "dev-0"
ROUNDS = 14

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

PLAN = f"""
[run]
name = "memory"
rounds = {ROUNDS}
task = "numbers"
[cohort]
size = 1
quorum = 1
over_select = 1.0
[evaluation]
every = 0
[method]
name = "fedavg"
"""


def rows(path: Path, query: str) -> list[tuple[int, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


@pytest.mark.slow
def test_the_memory_moves_once_per_receipt_and_an_update_is_made_once(tmp_path: Path) -> None:
    log, keep, journal = tmp_path / "work.log", tmp_path / DEVICE / "keep.db", tmp_path / "server" / "journal.db"
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))

    def memory() -> int:
        """Rounds the device's committed state has seen."""
        found = rows(keep, "SELECT round FROM local WHERE run='memory'")
        state = rows(keep, "SELECT hex(state) FROM local WHERE run='memory'")
        assert not found or int.from_bytes(bytes.fromhex(str(state[0][0])), "little") == found[0][0]
        return found[0][0] if found else 0

    def receipts() -> int:
        return rows(journal, "SELECT COUNT(*) FROM receipts")[0][0]

    def works() -> Counter[int]:
        return Counter(map(int, log.read_text().split())) if log.exists() else Counter()

    with Federation(tmp_path, tasks={"numbers": (ENTRY, {"values": VALUES})}) as bed:
        bed.start_server()
        bed.add_client(DEVICE, {"numbers": (ENTRY, {"values": VALUES})}, ("tests.crash.stateful:make", {"log": str(log)}))
        for i, point in enumerate((*BEFORE_STORING, *AFTER_STORING)):
            bed.start_client(DEVICE, {VARIABLE: point, "PYTHONPATH": path})
            if i == 0:
                bed.wait_connected(1)
                bed.submit(PLAN)
            assert bed.clients[DEVICE].wait(30.0) == EXIT_CODE, point
            if point == "receipt_not_recorded":
                assert receipts() == memory() + 1
            elif point == "recorded":
                assert receipts() == memory()
            else:
                assert memory() <= receipts() <= memory() + 1
            # Stored, or even sent, and still only waiting for its receipt.
            trained = rows(keep, "SELECT COUNT(*) FROM task WHERE state='trained'")[0][0]
            assert trained == (1 if point in AFTER_STORING and point != "recorded" else 0), point
        bed.start_client(DEVICE, {"PYTHONPATH": path})
        eventually(lambda: bed.info("memory").state != "running", 30.0, "the run's end")
        assert (bed.info("memory").state, bed.info("memory").rounds_done) == ("finished", ROUNDS)
        eventually(lambda: memory() == ROUNDS, 10.0, "the last receipt to be recorded")
        eventually(lambda: not list((tmp_path / DEVICE / "outbox").iterdir()), 10.0, "an empty outbox")

    # Every round started from the memory of the one before. Only what died before it was stored was made again.
    found = works()
    assert sorted(found) == list(range(ROUNDS))
    assert sum(found.values()) == ROUNDS + 1, "an update that may have left the device was made a second time"
    assert max(found.values()) == 2
    # What the server counted is byte for byte what the device stored, however often it was sent.
    stored = rows(keep, "SELECT round, attempt, hex(digest) FROM task WHERE state='acknowledged' ORDER BY round")
    assert stored == rows(journal, "SELECT round, attempt, hex(payload) FROM receipts ORDER BY round")
    assert len({digest for _, _, digest in stored}) == ROUNDS, "the noise repeated"
