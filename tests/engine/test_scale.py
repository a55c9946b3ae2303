"""Many virtual clients: made when needed, spread over processes, kept in a file; always the same bits."""

import json
import multiprocessing
import os
import pickle
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.eval.named import Named
from edgehold.core.contract import Facts
from edgehold.core.errors import ConfigError, FlError
from edgehold.core.plan import parse_plan
from edgehold.core.vectors import Bytes
from edgehold.defenses import registry
from edgehold.server.engine import Result, Store, VirtualFleet, run
from edgehold.server.engine.pool import Pool
from edgehold.server.engine.shelf import Shelf

DIGITS = "edgehold.client.data.digits:make_task"
NAN = Named("edgehold.attacks.byzantine.gaussian:not_finite")
COUNTING = Named("tests.engine.halves:counting")
ROOT = Path(__file__).parents[2]


def go(fleet: VirtualFleet, rounds: int = 2, cohort: str = "size = 5", seed: int = 0, **how: Any) -> Result:
    text = f"""
        [run]
        name = "scale"
        rounds = {rounds}
        task = "t"
        seed = {seed}
        [cohort]
        {cohort}
        [method]
        name = "fedavg"
    """
    return run(*parse_plan(text, registry.method), fleet, **how)


def synthetic(clients: int, **options: Any) -> VirtualFleet:
    return VirtualFleet("tests.engine.halves:deadly", options, clients)


def test_tasks_are_made_when_asked_for_and_forgotten_again() -> None:
    fleet = VirtualFleet("tests.engine.halves:deadly", {}, 10_000, cache=3)
    assert len(fleet) == 10_000
    assert list(fleet)[:2] == ["c0000", "c0001"]
    assert list(fleet) == sorted(fleet)
    assert "c9999" in fleet
    assert "d" not in fleet
    assert not fleet._tasks
    for client in ("c0000", "c0001", "c0000", "c0002", "c0003"):
        assert fleet[client].samples == int(client[1:]) + 2
    assert list(fleet._tasks) == ["c0000", "c0002", "c0003"]  # c0001 was asked for longest ago
    assert fleet["c0002"] is fleet["c0002"]
    again = pickle.loads(pickle.dumps(fleet))  # noqa: S301
    assert not again._tasks
    assert (again["c0004"], again.digest) == (fleet["c0004"], fleet.digest)
    assert fleet.digest != synthetic(10_000, fuse="x").digest


def test_fleets_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="device_index and devices are set"):
        VirtualFleet(DIGITS, {"devices": 3}, 3)
    with pytest.raises(ConfigError, match="at least 1"):
        VirtualFleet(DIGITS, {}, 0)
    with pytest.raises(ConfigError, match="nosuch"):
        VirtualFleet("nosuch.module:make", {}, 3)["c0000"]


def test_processes_give_the_same_bits() -> None:
    # Refusals, spares that stand in, and local states that travel: all as in one process.
    how: dict[str, Any] = {"adversaries": {"c0001": NAN, "c0003": COUNTING, "c0004": COUNTING}, "rounds": 3}
    cohort = "size = 5\nover_select = 1.6\nquorum = 3"
    one = go(VirtualFleet(DIGITS, {}, 8), cohort=cohort, **how)
    two = go(VirtualFleet(DIGITS, {}, 8), cohort=cohort, workers=2, **how)
    assert one.rejected["not_finite"] >= 1
    assert (one.digest, one.rounds, one.rejected) == (two.digest, two.rounds, two.rejected)
    honest = go(VirtualFleet(DIGITS, {}, 8), cohort=cohort, rounds=3)
    assert honest.digest != one.digest


REAL = "edgehold.attacks.eval.data:make_task"


def test_clients_that_share_a_module_give_the_bits_of_clients_that_have_their_own() -> None:
    # Dropout-free perceptron on digits: one process, three of them, and tasks with a module each.
    options = {"dataset": "digits", "net": {"hidden": [8]}}
    shared = VirtualFleet(REAL, options, 8)
    assert shared["c0000"].module is shared["c0001"].module  # type: ignore[attr-defined]
    own = VirtualFleet("edgehold.client.data.tasks:make_task", options, 8)
    assert own["c0000"].module is not own["c0001"].module  # type: ignore[attr-defined]
    one, three, apart = go(shared), go(VirtualFleet(REAL, options, 8), workers=3), go(own)
    assert (one.digest, one.rounds) == (three.digest, three.rounds) == (apart.digest, apart.rounds)
    assert one.digest != go(VirtualFleet(REAL, options | {"seed": 1}, 8)).digest


def test_all_cores_help_as_soon_as_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Counted(Pool):
        def __init__(self, setting: Any, workers: int) -> None:
            started.append(workers)
            super().__init__(setting, workers)

    monkeypatch.setattr("edgehold.server.engine.hands.Pool", Counted)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    one = go(VirtualFleet(DIGITS, {}, 6), rounds=3)
    assert go(VirtualFleet(DIGITS, {}, 6), rounds=3, workers=None).digest == one.digest
    assert not started  # a second of work is not worth two seconds of starting
    monkeypatch.setattr("edgehold.server.engine.hands.PAYS_S", 0.0)
    assert go(VirtualFleet(DIGITS, {}, 6), rounds=3, workers=None).digest == one.digest
    assert started == [2]


def test_failures_in_processes_arrive() -> None:
    with pytest.raises(FlError, match="no training records"):
        go(VirtualFleet("edgehold.client.data.synthetic:make_task", {"samples": 0}, 4), cohort="size = 2", workers=2)
    unpicklable: Any = lambda honest, client: honest  # noqa: E731
    with pytest.raises(ConfigError, match="cannot be sent to other processes"):
        go(synthetic(4), workers=2, adversaries={"c0000": unpicklable})


def test_a_killed_worker_is_an_error_not_a_wait(tmp_path: Path) -> None:
    fuse = tmp_path / "fuse"
    fuse.write_text("0")
    with pytest.raises(FlError, match=r"ended \(exit code -9\)"):
        go(synthetic(4, fuse=str(fuse)), workers=2)


def test_a_run_that_lost_a_worker_goes_on_with_another_number_of_them(tmp_path: Path) -> None:
    # Client c0002 counts its rounds in its local state, which the file hands to whichever process works for it next.
    everyone: dict[str, Any] = {"adversaries": {"c0002": COUNTING}, "rounds": 5}
    whole = go(synthetic(6), **everyone)
    seen: list[int] = []

    def deadly(number: int, facts: Facts) -> None:
        seen.append(number)
        if number == 2:
            multiprocessing.active_children()[0].kill()

    store = Store(tmp_path / "run.sqlite")
    with pytest.raises(FlError, match="exit code -9"):
        go(synthetic(6), workers=2, store=store, on_round=deadly, **everyone)
    store.close()
    assert seen == [1, 2]
    store = Store(tmp_path / "run.sqlite")
    again = go(synthetic(6), workers=3, store=store, on_round=lambda n, f: seen.append(n), **everyone)
    store.close()
    assert seen == [1, 2, 3, 4, 5]
    assert (again.digest, again.rounds) == (whole.digest, whole.rounds)


SCRIPT = """
import sys
from pathlib import Path
from tests.engine.test_scale import go, synthetic, COUNTING
from edgehold.server.engine import Store
result = go(synthetic(6, fuse=sys.argv[2]), rounds=5, adversaries={"c0002": COUNTING}, store=Store(Path(sys.argv[1])),
            on_round=lambda number, facts: print("round", number, flush=True))
print(result.digest.hex(), len(result.rounds))
"""


def test_a_killed_run_goes_on_and_ends_with_the_same_digest(tmp_path: Path) -> None:
    fuse, file = tmp_path / "fuse", tmp_path / "run.sqlite"
    command = [sys.executable, "-c", SCRIPT, str(file), str(fuse)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}

    def play() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)

    fuse.write_text("9")  # four or five honest trainings a round: dies within round 2 or 3
    killed = play()
    assert killed.returncode == -9, killed.stderr
    before = killed.stdout.splitlines()
    assert 1 <= len(before) <= 2
    with sqlite3.connect(file) as db:
        assert db.execute("SELECT count(*) FROM rounds").fetchone() == (len(before),)
        facts = json.loads(db.execute("SELECT facts FROM rounds WHERE number = 1").fetchone()[0])
        assert facts["clients_admitted"] == 5
    db.close()
    resumed = play()
    lines = resumed.stdout.splitlines()
    assert [*before, *lines[:-1]] == [f"round {number}" for number in range(1, 6)], resumed.stderr
    whole = go(synthetic(6, fuse=str(fuse)), rounds=5, adversaries={"c0002": COUNTING})
    assert lines[-1] == f"{whole.digest.hex()} 5"


def test_local_states_and_server_states_survive(tmp_path: Path) -> None:
    # One client that counts: without its state the second part would send 1 + drawn again.
    fleet, everyone = synthetic(1), {"c0000": COUNTING}
    whole = go(fleet, rounds=4, cohort="size = 1", adversaries=everyone)

    class Stop(Exception):
        pass

    def stop(number: int, facts: Facts) -> None:
        if number == 2:
            raise Stop

    store = Store(tmp_path / "a")
    with pytest.raises(Stop):
        go(fleet, rounds=4, cohort="size = 1", adversaries=everyone, store=store, on_round=stop)
    store.close()
    seen: list[int] = []
    store = Store(tmp_path / "a")
    again = go(
        fleet, rounds=4, cohort="size = 1", adversaries=everyone, store=store, on_round=lambda n, f: seen.append(n)
    )  # fmt: skip
    assert seen == [3, 4]
    assert (again.digest, again.rounds) == (whole.digest, whole.rounds)
    # A finished run plays nothing more and still knows its result.
    assert go(fleet, rounds=4, cohort="size = 1", adversaries=everyone, store=store).digest == whole.digest
    store.close()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "plan"),
        ({"clients": 5}, "clients"),
        ({"adversaries": {"c0001": NAN}}, "attackers"),
        ({"batch": True}, "batch"),
    ],
)
def test_a_file_goes_on_with_its_own_run_only(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    store = Store(tmp_path / "a")
    go(synthetic(4), cohort="size = 3", store=store)
    clients = change.pop("clients", 4)
    with pytest.raises(ConfigError, match=f"another {named}; use another file"):
        go(synthetic(clients), cohort="size = 3", store=store, **change)
    store.close()


def test_updates_beyond_memory_go_to_a_file() -> None:
    bodies = [bytes([number]) * 1000 for number in range(5)]
    with Shelf(memory=2500) as shelf:
        payloads = [shelf.put(b"h", body) for body in bodies]
        assert [isinstance(payload.body, Bytes) for payload in payloads] == [True, True, False, False, False]
        for payload, body in zip(payloads, bodies, strict=True):
            assert payload.body.size == 1000
            assert bytes(payload.body.read(0, 1000)) == body
            assert bytes(payload.body.read(10, 20)) == body[10:20]


def test_a_store_cuts_large_states_into_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehold.server.engine.store._PART", 100)  # 50 float32 values are two parts
    store = Store(tmp_path / "a")
    whole = go(synthetic(3), cohort="size = 3", store=store)
    kept = store.kept()
    assert kept is not None
    model = kept.packed.blobs["model"]
    assert np.array_equal(np.frombuffer(model.read(0, model.size), "<f4"), whole.model.whole())
    assert len(store.seconds()) == 2
    store.close()
