"""Either side dies at every named point and comes back: the same model, and every update counted once.

Real processes, mutual TLS, one federation for the whole file. EDGEHOLD_CRASH_REPEATS repeats the matrix (nightly: 200).
"""

import contextlib
import os
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.deaths import revive

from edgehold.attacks.testbed import Federation, eventually
from edgehold.client.data.synthetic import make_task
from edgehold.core.crashpoints import EXIT_CODE, VARIABLE
from edgehold.core.errors import FlError
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.server import engine
from edgehold.server.config import keys_folder
from edgehold.server.config import load as load_config

REPEATS = int(os.environ.get("EDGEHOLD_CRASH_REPEATS", "1"))
REPOSITORY = Path(__file__).parents[2]

ENTRY = "edgehold.client.data.synthetic:make_task"
VALUES = 700_000  # 2.7 MiB: three chunks up, and too much to travel inside the task
CLIENTS = ("dev-0", "dev-1", "dev-2")
ROUNDS = 24  # of the run in which the dice kill

# Point -> arrival at which the server dies. From 2 on it is the second round, or the second of several uploads under way.
SERVER = {
    "planned": 2,
    "roster_closed": 2,
    "chunk_stored": 5,
    "upload_whole": 2,
    "receipt_journaled": 2,
    "frozen": 2,
    "summed": 2,
    "stored": 2,
    "commit_journaled": 2,
    "published": 2,
}
# Three devices die in one run, each at its own point: every run covers three.
CLIENT = (
    {"dev-0": "task_received:2", "dev-1": "trained_not_stored:2", "dev-2": "stored_not_sent:2"},
    {"dev-0": "upload_started:2", "dev-1": "mid_upload:2", "dev-2": "uploaded_no_receipt:2"},
    {"dev-0": "receipt_not_recorded:2", "dev-1": "recorded:2", "dev-2": "mid_upload:1"},
)


def plan_text(name: str, rounds: int = 2, **cohort: object) -> str:
    more = "".join(f"{key} = {value}\n" for key, value in cohort.items())
    return (
        f'[run]\nname = "{name}"\nrounds = {rounds}\ntask = "numbers"\n'
        f"[cohort]\nsize = 3\nquorum = 3\nover_select = 1.0\n{more}"
        '[evaluation]\nevery = 0\n[method]\nname = "fedavg"\nserver_momentum = 0.5\n'
    )


def device(index: int) -> dict[str, int]:
    """Claimed samples differ, so that a lost or doubled update moves the average; so does each device's step."""
    return {"values": VALUES, "device_index": index, "samples": index + 1}


@dataclass
class Bed:
    """The federation, and what every run in it must come to."""

    federation: Federation
    sound: bool = True
    names: Iterator[str] = field(default_factory=lambda: (f"run-{i}" for i in range(10_000)))

    def restart(self, environment: dict[str, str] | None = None) -> None:
        self.federation.daemon.stop(9)
        self.federation.start_server(environment)
        self.federation.wait_connected(3)

    def submit(self, plan: str) -> None:
        """Hand in a plan; the server may die before it answers."""
        with contextlib.suppress(FlError):
            self.federation.submit(plan)

    def finished(self, name: str, rounds: int = 2, timeout_s: float = 60.0) -> None:
        """Wait for the run's end; the model must be that of a run in one process, where nothing ever dies."""

        def ended() -> bool:
            return self.federation.info(name).state in ("finished", "failed", "stopped")

        eventually(ended, timeout_s, f"the end of {name}")
        info = self.federation.info(name)
        assert (info.state, info.error, info.rounds_done) == ("finished", "", rounds)
        assert info.model_digest == reference(rounds)

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(f"file:{self.federation.home / 'journal.db'}?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()

    def counted_once(self, name: str, rounds: int = 2) -> None:
        """One receipt for each client in each committed attempt, and both sides agree on how many there were."""
        committed = f"SELECT round, attempt, client FROM receipts JOIN rounds USING (run, round, attempt) WHERE run='{name}'"
        found = self.rows(f"{committed} AND state='committed' ORDER BY round, client")
        assert [(number, client) for number, _, client in found] == [(r, c) for r in range(1, rounds + 1) for c in CLIENTS]
        attempts = {number: attempt for number, attempt, _ in found}
        assert not self.rows("SELECT 1 FROM receipts GROUP BY run, round, attempt, client HAVING COUNT(*) > 1")
        assert not self.rows(
            "SELECT 1 FROM clients c WHERE admitted != (SELECT COUNT(*) FROM receipts r WHERE r.client = c.id)"
        )

        def settled(client: str) -> Callable[[], bool]:
            def ask() -> bool:
                path = self.federation.folder / client / "keep.db"
                with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                    query = f"SELECT round, attempt FROM task WHERE run='{name}' AND state='acknowledged'"
                    return attempts.items() <= set(db.execute(query).fetchall())

            return ask

        for client in CLIENTS:
            eventually(settled(client), 20.0, f"{client} to have every receipt of {name}")
        self.sound = True

    def attempts(self, name: str) -> int:
        return max(int(str(row[0])) for row in self.rows(f"SELECT attempt FROM rounds WHERE run='{name}'"))


_REFERENCE: dict[int, bytes] = {}


def reference(rounds: int) -> bytes:
    """Digest of the model after so many rounds in one process."""
    if rounds not in _REFERENCE:
        plan, settings = parse_plan(plan_text("reference", rounds), registry.method)
        tasks = {client: make_task(**device(i)) for i, client in enumerate(CLIENTS)}
        _REFERENCE[rounds] = engine.run(plan, settings, tasks).digest
    return _REFERENCE[rounds]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    folder = tmp_path_factory.mktemp("crash")
    with Federation(folder, tasks={"numbers": (ENTRY, {"values": VALUES})}) as federation:
        federation.start_server()
        for i, client in enumerate(CLIENTS):
            federation.add_client(client, {"numbers": (ENTRY, device(i))})
            federation.start_client(client)
        federation.wait_connected(3)
        yield Bed(federation)


def alive(bed: Bed) -> None:
    """Everybody up and without a death wish, whatever an earlier test left behind."""
    if bed.sound:
        bed.sound = False
        return
    revive(bed.federation, CLIENTS)


def test_every_point_in_the_code_is_in_the_matrix() -> None:
    found: dict[str, set[str]] = {}
    for side in ("server", "client"):
        text = "".join(path.read_text() for path in (REPOSITORY / side).rglob("*.py"))
        found[side] = set(re.findall(r'\breach\("(\w+)"\)', text))
    # Reached by methods whose noise the server adds, whose models no undisturbed run repeats: see test_private.py.
    # And in masked sums: see test_masked.py.
    masked = {"advert_journaled", "groups_drawn", "shares_journaled", "revealed_in_memory"}
    assert found["server"] == set(SERVER) | {"round_charged"} | masked
    # Reached by methods whose devices read each other: see test_letters.py. And in masked sums.
    masked = {"advert_stored", "shares_stored", "boxes_stored", "masked_not_stored", "masked_stored", "noise_charged"}
    masked |= {"reveal_not_sent"}
    assert found["client"] == {point.partition(":")[0] for run in CLIENT for point in run.values()} | {"letters_read"} | masked


def test_nobody_dies(bed: Bed) -> None:
    """The control: without a crash the daemons give the model of the run in one process."""
    name = next(bed.names)
    bed.submit(plan_text(name))
    bed.finished(name)
    bed.counted_once(name)
    assert bed.attempts(name) == 1


@pytest.mark.slow
@pytest.mark.parametrize("repeat", range(REPEATS))
@pytest.mark.parametrize("point", SERVER)
def test_the_server_dies(bed: Bed, point: str, repeat: int) -> None:
    alive(bed)
    name = next(bed.names)
    bed.restart({VARIABLE: f"{point}:{SERVER[point]}"})
    bed.submit(plan_text(name))
    assert bed.federation.daemon.wait(30.0) == EXIT_CODE
    bed.federation.start_server()
    bed.finished(name)
    bed.counted_once(name)
    # Nothing was lost, so nothing was asked for twice: each round kept its roster and its nonce.
    assert bed.attempts(name) == 1


@pytest.mark.slow
@pytest.mark.parametrize("repeat", range(REPEATS))
@pytest.mark.parametrize("points", CLIENT, ids=lambda points: "+".join(points.values()))
def test_clients_die(bed: Bed, points: dict[str, str], repeat: int) -> None:
    alive(bed)
    name = next(bed.names)
    for client, point in points.items():
        bed.federation.clients[client].stop(9)
        bed.federation.start_client(client, {VARIABLE: point})
    bed.federation.wait_connected(3)
    bed.submit(plan_text(name))
    for _ in points:
        # In the order in which they fall: the round of one may not come before another is back.
        client = eventually(lambda: next((one for one in points if not bed.federation.clients[one].alive), ""), what="a death")
        assert bed.federation.clients[client].wait() == EXIT_CODE
        bed.federation.start_client(client)
    bed.finished(name)
    bed.counted_once(name)
    assert bed.attempts(name) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(REPEATS))
def test_kill_9_at_any_moment(bed: Bed, seed: int) -> None:
    """One run, ten deaths: whoever the dice choose, whenever they fall."""
    alive(bed)
    name, rng = next(bed.names), random.Random(seed)
    victims = [*CLIENTS, "server"] * 2 + ["server", "server"]
    rng.shuffle(victims)
    bed.submit(plan_text(name, ROUNDS))
    moments: list[float] = []
    done: list[int] = []
    for victim in victims:
        moments.append(time.monotonic() + rng.uniform(0.0, 0.12))
        eventually(lambda: time.monotonic() >= moments[-1])
        if victim == "server":
            bed.federation.daemon.stop(9)
            bed.federation.start_server()
        else:
            bed.federation.clients[victim].stop(9)
            bed.federation.start_client(victim)
        # Everybody back before the next one falls, or the run would only ever wait.
        bed.federation.wait_connected(3)
        done.append(bed.federation.info(name).rounds_done)
    assert done[-2] < ROUNDS, f"the run was over before the last one died: {done}"
    bed.finished(name, ROUNDS)
    bed.counted_once(name, ROUNDS)


@pytest.mark.slow
def test_power_loss_takes_the_round_key_and_the_round_starts_again(bed: Bed) -> None:
    alive(bed)
    name = next(bed.names)
    bed.restart({VARIABLE: "receipt_journaled:5"})
    bed.submit(plan_text(name, 3))
    assert bed.federation.daemon.wait(30.0) == EXIT_CODE
    keys = list(keys_folder(load_config(bed.federation.home), bed.federation.home).iterdir())
    assert [key.name for key in keys] == [f"{name}.2.1"]
    keys[0].unlink()
    bed.federation.start_server()
    bed.finished(name, 3)
    bed.counted_once(name, 3)
    found = bed.rows(f"SELECT round, attempt, state FROM rounds WHERE run='{name}' ORDER BY round, attempt")
    assert found == [(1, 1, "committed"), (2, 1, "abandoned"), (2, 2, "committed"), (3, 1, "committed")]
    nonces = bed.rows(f"SELECT DISTINCT nonce FROM rounds WHERE run='{name}'")
    assert len(nonces) == 4
    # What the lost key sealed is gone with it.
    assert not (bed.federation.home / "spool" / f"{name}.2.1").exists()


@pytest.mark.slow
def test_a_run_that_failed_for_want_of_clients_goes_on_when_they_are_back(bed: Bed) -> None:
    alive(bed)
    name = next(bed.names)
    bed.federation.clients["dev-2"].stop(9)
    eventually(lambda: bed.federation.connected() == 2)
    bed.federation.start_client("dev-2", {VARIABLE: "task_received"})
    bed.federation.wait_connected(3)
    bed.submit(plan_text(name, max_attempts=1, round_deadline_s=1.0))
    assert bed.federation.clients["dev-2"].wait(30.0) == EXIT_CODE
    eventually(lambda: bed.federation.info(name).state == "failed", what="the run to fail")
    bed.federation.start_client("dev-2")
    bed.federation.wait_connected(3)
    request = pb.ResumeRunRequest(run=name)
    bed.federation.ask(lambda stub: stub.unary("ResumeRun", request, pb.ResumeRunResponse))
    bed.finished(name)
    bed.counted_once(name)
