"""Disks that fill up and syncs that fail: what is refused, what stops, and that the journal can be read afterwards."""

import asyncio
import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from tests.support import inprocess, wire
from tests.support.inprocess import Place
from tests.support.wire import Device, honest_update

from edgehold.core.errors import JournalError
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.server.store.blobs import FileSink
from edgehold.server.store.journal import Journal
from edgehold.server.store.spool import SealedFile

VALUES = 1000
PLAN = """
[run]
name = "run"
rounds = 1
task = "synthetic"
[cohort]
size = 1
quorum = 1
over_select = 1.0
join_deadline_s = 20.0
round_deadline_s = 20.0
max_attempts = 2
[method]
name = "fedavg"
[evaluation]
every = 0
"""


def failing(number: int) -> Callable[..., Any]:
    """A call that fails as a disk does."""

    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@asynccontextmanager
async def asked(home: Path) -> AsyncIterator[tuple[Place, Device]]:
    """A server, and a device that has a task."""
    async with inprocess.server(home, values=VALUES) as place, await place.device("dev") as device:
        await device.connect()
        await wire.submit(place.stub, PLAN)
        await device.task("run")
        yield place, device


def readable(home: Path) -> Sequence[tuple[Any, ...]]:
    """The journal is whole and its audit log unbroken; returns the rounds in it."""
    db = sqlite3.connect(home / "journal.db")
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()
    journal = Journal(home)
    try:
        journal.verify_audit()
        return journal.read("SELECT round, attempt, state FROM rounds ORDER BY round, attempt")
    finally:
        journal.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("place_of_failure", ["first bytes", "chunk"])
def test_an_upload_that_cannot_be_stored_is_told_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, place_of_failure: str
) -> None:
    async def play() -> None:
        async with asked(tmp_path / "server") as (place, device):
            payload = honest_update(VALUES)
            with monkeypatch.context() as patch:
                if place_of_failure == "chunk":
                    patch.setattr(SealedFile, "append", failing(number))
                else:
                    patch.setattr(os, "pwrite", failing(number))
                answer = await device.upload(payload)
            assert (answer.status, answer.code) == (StatusCode.RESOURCE_EXHAUSTED, "busy"), answer
            assert answer.detail
            assert answer.detail.retry_after_s > 0
            assert await place.refused() == {"busy": 1}
            assert [path for path in (place.home / "spool").glob("*/*")] == [], "what could not be stored is left behind"
            # There is room again: the same update counts.
            assert (await device.upload(payload)).status is StatusCode.OK
            assert (await wire.finished(place.stub, "run")).state == "finished"
        assert readable(tmp_path / "server") == [(1, 1, "committed")]

    asyncio.run(play())


def test_a_model_that_cannot_be_written_fails_the_run_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with asked(tmp_path / "server") as (place, device):
            with monkeypatch.context() as patch:
                patch.setattr(FileSink, "write", failing(errno.ENOSPC))
                assert (await device.upload(honest_update(VALUES))).status is StatusCode.OK
                info = await wire.finished(place.stub, "run")
            assert info.state == "failed"
            assert os.strerror(errno.ENOSPC) in info.error
            assert not place.serving.done()
            await place.stub.unary("ResumeRun", pb.ResumeRunRequest(run="run"), pb.ResumeRunResponse)
            info = await wire.finished(place.stub, "run")
            assert (info.state, info.rounds_done) == ("finished", 1)
        assert readable(tmp_path / "server") == [(1, 1, "committed")]

    asyncio.run(play())


def test_a_failed_sync_of_a_model_stops_the_process_and_a_restart_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "server"

    async def play() -> None:
        with monkeypatch.context() as patch:
            async with asked(home) as (place, device):
                patch.setattr(os, "fsync", failing(errno.EIO))
                await device.upload(honest_update(VALUES))
                assert await asyncio.wait_for(asyncio.shield(place.serving), wire.WAIT_S) == 1
        assert readable(home) == [(1, 1, "closing")]
        async with inprocess.server(home, values=VALUES) as place:
            info = await wire.finished(place.stub, "run")
            assert (info.state, info.rounds_done) == ("finished", 1)
        assert readable(home) == [(1, 1, "committed")]

    asyncio.run(play())


class Failing:
    """The journal's connection on a disk that fails at COMMIT."""

    def __init__(self, connection: sqlite3.Connection, message: str) -> None:
        self._connection, self._message = connection, message

    def execute(self, query: str, *arguments: Any) -> Any:
        if query == "COMMIT":
            raise sqlite3.OperationalError(self._message)
        return self._connection.execute(query, *arguments)

    def close(self) -> None:
        self._connection.close()


@pytest.mark.parametrize("message", ["disk I/O error", "database or disk is full"])
def test_a_journal_that_cannot_be_synced_stops_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    home = tmp_path / "server"
    journals: list[Journal] = []
    made = Journal.__init__

    def remember(journal: Journal, folder: Path, *synced: Callable[[float], object]) -> None:
        made(journal, folder, *synced)
        journals.append(journal)

    monkeypatch.setattr(Journal, "__init__", remember)

    async def play() -> None:
        async with asked(home) as (place, device):
            journal = journals[0]
            monkeypatch.setattr(journal, "_writer", Failing(journal._writer, message))
            answer = await device.upload(honest_update(VALUES))
            # No receipt, no reason given away, only a number to find it by in the log.
            assert (answer.status, answer.detail, answer.replies) == (StatusCode.INTERNAL, None, ())
            assert answer.text.startswith("internal error ")
            assert message not in answer.text
            with pytest.raises(JournalError):
                await journal.write(lambda db: None)
            assert await asyncio.wait_for(asyncio.shield(place.serving), wire.WAIT_S) == 1
        assert readable(home) == [(1, 1, "open")]
        # The upload was never counted; after a restart the device sends it again, and once is all it counts.
        async with inprocess.server(home, values=VALUES) as place:
            address = (await wire.status(place.stub)).listen
            async with Device(device.credentials, address) as again:
                await again.connect()
                await again.task("run")
                assert (await again.upload(honest_update(VALUES))).status is StatusCode.OK
                assert (await wire.finished(place.stub, "run")).state == "finished"
        assert readable(home) == [(1, 1, "committed")]

    asyncio.run(play())
