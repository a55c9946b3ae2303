"""The ledger: charged before released, never twice, never refunded, and no torn, dropped or old file gets past it."""

import os
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edgehold.core import crashpoints
from edgehold.core.errors import BudgetSpent, ConfigError, JournalError, LedgerRolledBack
from edgehold.core.privacy import gaussian, ledger
from edgehold.core.privacy.events import Gaussian, SampledGaussian
from edgehold.core.privacy.ledger import Cause, Head, Ledger, Limit

LIMIT = Limit(6.0, 1e-5)
SEEDS = int(os.environ.get("EDGEHOLD_LEDGER_SEEDS", "250"))
"""Crashes that are played; 5,000 with the variable."""


def cause(number: int, run: str = "run") -> Cause:
    return Cause(run, number, 1, bytes([number % 256]) * 32, "dp_sgd")


def event(mu: float) -> Gaussian:
    return Gaussian(sensitivity=1.0, sigma=1 / mu)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_charges_add_up_to_the_budget_and_not_beyond(path: Path) -> None:
    # mu of (6, 1e-5) is 1.3095...: releases of mu 0.4 fit ten times (0.4 sqrt(10) = 1.265), not eleven (1.327).
    assert 0.4 * 10**0.5 < gaussian.mu_of(6.0, 1e-5) < 0.4 * 11**0.5
    book = Ledger(path)
    for number in range(1, 11):
        book.charge("patients", LIMIT, cause(number), [event(0.4)])
    head, spent = book.head, book.epsilon("patients", 1e-5)
    assert spent == pytest.approx(gaussian.epsilon_of(0.4 * 10**0.5, 1e-5))
    with pytest.raises(BudgetSpent, match="'patients'.*of epsilon 6 .*nothing was released"):
        book.charge("patients", LIMIT, cause(11), [event(0.4)])
    assert book.head == head
    # Smaller releases still fit, other data sets have budgets of their own, a raised limit counts from what is spent.
    book.charge("patients", LIMIT, cause(12), [event(0.05)])
    book.charge("machines", LIMIT, cause(13), [event(0.4)])
    book.charge("patients", Limit(8.0, 1e-5), cause(14), [event(0.4)])
    with pytest.raises(BudgetSpent):
        book.charge("patients", LIMIT, cause(15), [event(0.001)])


def test_budgets_survive_restarts_and_belong_to_the_data_set_over_runs(path: Path) -> None:
    book = Ledger(path)
    for number in range(1, 6):
        book.charge("patients", LIMIT, cause(number, f"run-{number}"), [event(0.4)])
    head = book.head
    book.close()
    again = Ledger(path)
    assert again.head == head
    for number in range(6, 11):
        again.charge("patients", LIMIT, cause(number, f"run-{number}"), [event(0.4)])
    with pytest.raises(BudgetSpent):
        again.charge("patients", LIMIT, cause(11, "a new run"), [event(0.4)])
    assert [line.run for line in ledger.read(path).lines] == [f"run-{number}" for number in range(1, 11)]
    assert ledger.read(path).lines[-1].epsilon == pytest.approx(again.epsilon("patients", 1e-5))


def test_one_cause_is_charged_once_and_for_one_thing(path: Path) -> None:
    book = Ledger(path)
    head = book.charge("patients", LIMIT, cause(1), [event(0.4)])
    assert book.charge("patients", LIMIT, cause(1), [event(0.4)]) == head
    with pytest.raises(JournalError, match="for something else; the charge stays"):
        book.charge("patients", LIMIT, cause(1), [event(0.3)])
    assert len(ledger.read(path).lines) == 1


def test_the_kind_of_account_is_fixed_with_the_first_charge(path: Path) -> None:
    book = Ledger(path)
    sampled = SampledGaussian(sensitivity=1.0, sigma=1.0, rate=0.01, steps=10)
    book.charge("patients", LIMIT, cause(1), [sampled])
    first = book.epsilon("patients", 1e-5)
    book.charge("patients", LIMIT, cause(2), [event(0.1)])
    assert first < book.epsilon("patients", 1e-5) < first + 1.0
    book.close()
    again = Ledger(path)
    assert again.epsilon("patients", 1e-5) == pytest.approx(book.epsilon("patients", 1e-5))


def test_what_is_written_cannot_be_changed_unseen(path: Path) -> None:
    book = Ledger(path)
    for number in range(1, 4):
        book.charge("patients", LIMIT, cause(number), [event(0.4)])
    book.close()
    for change in (
        "UPDATE line SET body = replace(body, '2.5', '9.5') WHERE number = 2",
        "UPDATE line SET body = replace(body, 'patients', 'machines') WHERE number = 1",
        "DELETE FROM line WHERE number = 1",
        "DELETE FROM line WHERE number = 2",
        "UPDATE line SET hash = zeroblob(32) WHERE number = 3",
    ):
        damaged = path.with_name("damaged.db")
        shutil.copy(path, damaged)
        db = sqlite3.connect(damaged, isolation_level=None)
        assert db.execute(change).rowcount == 1
        db.close()
        with pytest.raises(JournalError, match="not what was written"):
            Ledger(damaged)
        with pytest.raises(JournalError, match="not what was written"):
            ledger.read(damaged)


def test_a_restored_backup_is_refused_by_whoever_saw_the_newer_head(path: Path) -> None:
    book = Ledger(path)
    old = book.charge("patients", LIMIT, cause(1), [event(0.4)])
    book.close()
    backup = path.with_name("backup.db")
    shutil.copy(path, backup)
    book = Ledger(path)
    newer = book.charge("patients", LIMIT, cause(2), [event(0.4)])
    for known in (Head(0, bytes(32)), old, newer):
        book.must_know(known)
    book.close()
    restored = Ledger(backup)
    restored.must_know(old)
    with pytest.raises(LedgerRolledBack, match="has 1 lines, and another one of 2"):
        restored.must_know(newer)
    # As long as the newer one again, but with another line.
    restored.charge("patients", LIMIT, cause(3), [event(0.1)])
    with pytest.raises(LedgerRolledBack):
        restored.must_know(newer)


def test_a_second_writer_is_noticed(path: Path) -> None:
    one, other = Ledger(path), Ledger(path)
    one.charge("patients", LIMIT, cause(1), [event(0.4)])
    with pytest.raises(JournalError, match="another process"):
        other.charge("patients", LIMIT, cause(2), [event(0.4)])


@pytest.mark.parametrize("limit", [Limit(0.0, 1e-5), Limit(1.0, 0.0), Limit(1.0, 1.0), Limit(float("nan"), 1e-5)])
def test_charges_that_mean_nothing_are_refused(path: Path, limit: Limit) -> None:
    with pytest.raises(ConfigError, match="allowed: above 0"):
        Ledger(path).charge("patients", limit, cause(1), [event(0.1)])
    with pytest.raises(ConfigError, match="without an event"):
        Ledger(path).charge("patients", LIMIT, cause(1), [])


class _Killed(BaseException):
    pass


def test_whatever_the_crash_what_was_released_was_charged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds of charges cut short: at a fail point, with the log torn or dropped behind the last sync, with bits turned there.

    After every crash the file opens (or is refused whole) and holds every charge after which something was released.
    """
    refused = lost = 0
    for seed in range(SEEDS):
        chance = random.Random(seed)
        folder = path.parent / str(seed)
        folder.mkdir()
        file = folder / "ledger.db"
        released, synced = _until_a_crash(file, chance, monkeypatch)
        crashed = folder / "crashed.db"
        shutil.copy(file, crashed)
        _torn(file.with_name("ledger.db-wal"), crashed.with_name("crashed.db-wal"), synced, chance)
        charged = {(line.run, line.round) for line in ledger.read(crashed).lines}
        assert released <= charged, f"seed {seed}"
        refused += len(charged) > len(released)
        lost += not released
        again = Ledger(crashed)
        assert again.head.lines == len(charged)
        again.charge("patients", Limit(50.0, 1e-5), cause(200), [event(0.1)])
        again.close()
        shutil.rmtree(folder)
    # The crashes reached both sides of the commit.
    assert refused > SEEDS / 50
    assert lost < SEEDS / 2


def _until_a_crash(file: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> tuple[set[tuple[str, int]], int]:
    """(causes released, bytes of the log that were synced when the last of them was)."""
    released: set[tuple[str, int]] = set()
    book, log = Ledger(file), file.with_name("ledger.db-wal")
    synced = log.stat().st_size
    point, at = chance.choice(["charge_written", "charged", ""]), chance.randrange(1, 8)

    def die(code: int) -> None:
        raise _Killed

    reach: Any = crashpoints.killer(f"{point}:{at}" if point else "", die)
    monkeypatch.setattr(crashpoints, "reach", reach)
    try:
        for number in range(1, chance.randrange(2, 9)):
            book.charge("patients", Limit(50.0, 1e-5), cause(number), [event(0.4)])
            released.add(("run", number))
            synced = log.stat().st_size
    except _Killed:
        pass
    monkeypatch.undo()
    # Closing would tidy the log away, which a killed process does not do; the connection is left to the collector.
    return released, synced


def _torn(log: Path, copy: Path, synced: int, chance: random.Random) -> None:
    """What was not synced when the machine stopped may be there, in part, or with other bits."""
    data = bytearray(log.read_bytes()) if log.exists() else bytearray()
    tail = chance.choice(["whole", "torn", "garbage", "dropped"])
    if tail == "torn":
        del data[chance.randrange(synced, len(data) + 1) :]
    elif tail == "dropped":
        del data[synced:]
    elif tail == "garbage":
        data += chance.randbytes(chance.randrange(1, 5000))
        for _ in range(5):
            if len(data) > synced:
                data[chance.randrange(synced, len(data))] ^= 1 << chance.randrange(8)
    copy.write_bytes(bytes(data))
