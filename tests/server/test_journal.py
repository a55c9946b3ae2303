"""The journal: together or not at all, in order, provably unaltered."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgehold.core.errors import ConfigError, FlError, JournalError, Stale
from edgehold.server.store.journal import BATCH, Journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    found = Journal(tmp_path)
    yield found
    found.close()


def put(key: str) -> Callable[[sqlite3.Connection], str]:
    def change(db: sqlite3.Connection) -> str:
        db.execute("INSERT INTO meta VALUES (?, ?)", (key, b"x"))
        return key

    return change


def keys(journal: Journal) -> set[str]:
    return {key for (key,) in journal.read("SELECT key FROM meta WHERE key != 'epoch'")}


async def hold(journal: Journal) -> tuple["asyncio.Future[None]", threading.Event]:
    """Keep the writer busy until the event is set, so that what is written meanwhile is committed together."""
    entered, go = threading.Event(), threading.Event()

    def change(db: sqlite3.Connection) -> None:
        entered.set()
        assert go.wait(20)

    task = asyncio.ensure_future(journal.write(change))
    assert await asyncio.to_thread(entered.wait, 20)
    return task, go


def test_what_is_written_is_there_after_a_reopening(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    assert asyncio.run(first.write(put("a"))) == "a"
    assert keys(first) == {"a"}
    first.close()
    second = Journal(tmp_path)
    assert (keys(second), second.epoch) == ({"a"}, first.epoch + 1)
    second.close()


def test_changes_that_wait_together_cost_one_commit(journal: Journal) -> None:
    commits: list[str] = []
    journal._writer.set_trace_callback(lambda line: commits.append(line) if line == "COMMIT" else None)

    async def main() -> None:
        held, go = await hold(journal)
        writes = [asyncio.ensure_future(journal.write(put(str(i)))) for i in range(BATCH + 10)]
        await asyncio.sleep(0)
        go.set()
        await held
        assert await asyncio.gather(*writes) == [str(i) for i in range(BATCH + 10)]

    asyncio.run(main())
    # The one that held the writer, a full batch, the rest.
    assert len(commits) == 3
    assert len(keys(journal)) == BATCH + 10


def test_a_refusal_undoes_its_own_change_alone(journal: Journal) -> None:
    def refuse(db: sqlite3.Connection) -> None:
        put("no")(db)
        journal.append_audit(db, "refused", "nobody")
        raise Stale("closed")

    async def main() -> None:
        held, go = await hold(journal)
        writes: list[Any] = [asyncio.ensure_future(journal.write(change)) for change in (put("a"), refuse, put("b"))]
        audited = asyncio.ensure_future(journal.write(lambda db: journal.append_audit(db, "kept", "somebody", n=1)))
        await asyncio.sleep(0)
        go.set()
        await held
        found = await asyncio.gather(*writes, return_exceptions=True)
        assert [found[0], found[2]] == ["a", "b"]
        assert isinstance(found[1], Stale)
        await audited

    asyncio.run(main())
    assert keys(journal) == {"a", "b"}
    # The audit line that was undone left no gap in the chain.
    assert journal.verify_audit() == 1


def test_a_later_change_sees_an_earlier_one_of_its_batch(journal: Journal) -> None:
    async def main() -> None:
        held, go = await hold(journal)
        first = asyncio.ensure_future(journal.write(put("a")))
        second = asyncio.ensure_future(journal.write(lambda db: db.execute("SELECT 1 FROM meta WHERE key='a'").fetchone()))
        await asyncio.sleep(0)
        assert not journal.read("SELECT 1 FROM meta WHERE key='a'")  # readers see what is durable
        go.set()
        await held
        await first
        assert await second == (1,)

    asyncio.run(main())


def test_a_failure_that_nobody_foresaw_breaks_the_journal_for_good(journal: Journal) -> None:
    async def main() -> None:
        await journal.write(put("before"))
        held, go = await hold(journal)
        beside = asyncio.ensure_future(journal.write(put("beside")))
        broken = asyncio.ensure_future(journal.write(lambda db: db.execute("INSERT INTO nowhere VALUES (1)")))
        await asyncio.sleep(0)
        go.set()
        await held
        for write in (beside, broken):
            with pytest.raises(JournalError):
                await write
        with pytest.raises(JournalError):
            await journal.write(put("after"))

    asyncio.run(main())
    assert keys(journal) == {"before"}


def test_a_failed_commit_breaks_the_journal_and_nobody_is_told_yes(journal: Journal) -> None:
    class NoDisk:
        def __init__(self, inner: sqlite3.Connection) -> None:
            self.inner = inner

        def execute(self, query: str, *rest: Any) -> Any:
            if query == "COMMIT":
                raise sqlite3.OperationalError("disk I/O error")
            return self.inner.execute(query, *rest)

        def close(self) -> None:
            self.inner.close()

    async def main() -> None:
        await journal.write(put("before"))
        writer = journal._writer
        journal._writer = NoDisk(writer)  # type: ignore[assignment]
        with pytest.raises(JournalError, match="disk I/O error"):
            await journal.write(put("lost"))
        journal._writer = writer  # even when the disk is back
        with pytest.raises(JournalError):
            await journal.write(put("after"))

    asyncio.run(main())
    assert keys(journal) == {"before"}


def test_a_caller_that_goes_away_leaves_its_change(journal: Journal) -> None:
    async def main() -> None:
        held, go = await hold(journal)
        write = asyncio.ensure_future(journal.write(put("kept")))
        await asyncio.sleep(0)
        write.cancel()
        go.set()
        await held
        with pytest.raises(asyncio.CancelledError):
            await write
        await journal.write(put("next"))

    asyncio.run(main())
    assert keys(journal) == {"kept", "next"}


def test_a_second_server_on_the_store_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    with pytest.raises(ConfigError, match=r"another fl-server \(process \d+\)"):
        Journal(tmp_path)
    first.close()
    Journal(tmp_path).close()


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"no database at all, but long enough to look like one" * 100)
    with pytest.raises(JournalError):
        Journal(tmp_path)


# The audit log.


def audited(folder: Path, lines: int = 3) -> None:
    journal = Journal(folder)

    def change(i: int) -> Callable[[sqlite3.Connection], None]:
        return lambda db: journal.append_audit(db, "event", f"subject-{i}", number=i)

    async def main() -> None:
        for i in range(lines):
            await journal.write(change(i))

    asyncio.run(main())
    journal.close()


def test_the_chain_goes_on_after_a_restart(tmp_path: Path) -> None:
    audited(tmp_path)
    audited(tmp_path)
    with closing(Journal(tmp_path)) as journal:
        assert journal.verify_audit() == 6


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit SET time = time + 1 WHERE seq = 2",
        "UPDATE audit SET event = 'other' WHERE seq = 2",
        "UPDATE audit SET subject = 'other' WHERE seq = 2",
        "UPDATE audit SET detail = '{\"number\":9}' WHERE seq = 2",
        "UPDATE audit SET previous = zeroblob(32) WHERE seq = 2",
        "UPDATE audit SET hash = zeroblob(32) WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 1",
        "UPDATE audit SET seq = CASE seq WHEN 1 THEN 12 ELSE seq END",
    ],
)
def test_tampering_is_found(tmp_path: Path, tampering: str) -> None:
    audited(tmp_path)
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as db:
        db.execute(tampering)
    with closing(Journal(tmp_path)) as journal, pytest.raises(JournalError, match="altered"):
        journal.verify_audit()


def test_every_refusal_is_an_fl_error() -> None:
    assert issubclass(JournalError, FlError)
