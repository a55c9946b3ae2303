"""Devices that read each other: either side dies at every point and comes back, and the model is that of one process.

Through the server, and from device to device alone, where a sender that died is read when it is back.
"""

import contextlib
import sqlite3
from collections.abc import Iterator

import pytest
from tests.crash.test_crash_matrix import SERVER
from tests.support import adding
from tests.support.deaths import revive
from tests.support.reading_bed import Bed, in_one_process, plan

from edgehold.attacks.testbed import eventually
from edgehold.core.crashpoints import EXIT_CODE, VARIABLE
from edgehold.core.errors import FlError
from edgehold.server.config import keys_folder, load

VALUES = 700_000  # 2.7 MiB: three chunks up, and three down again to whoever reads them
CLIENTS = ("dev-0", "dev-1", "dev-2")
ROUNDS = 3
POINTS = (
    "task_received", "letters_read", "trained_not_stored", "stored_not_sent", "upload_started", "mid_upload",
    "uploaded_no_receipt", "receipt_not_recorded", "recorded",
)  # fmt: skip
# Three devices die in one run, each at its own point. Letters are read from the second round on.
DEVICES = [dict(zip(CLIENTS, (f"{point}:2" for point in POINTS[at::3]), strict=True)) for at in range(3)]


class Playground:
    """One federation for a way of reading. names: of the runs."""

    def __init__(self, bed: Bed, path: str) -> None:
        self.bed, self.path = bed, path
        self.names = (f"run-{path}-{i}" for i in range(1000))
        self.sound = True

    def everybody(self) -> None:
        """All up, without a death wish, whatever an earlier test left behind."""
        if self.sound:
            self.sound = False
            return
        revive(self.bed, CLIENTS)

    def submit(self) -> str:
        name = next(self.names)
        with contextlib.suppress(FlError):
            self.bed.submit(plan(name, ROUNDS, 3, self.path, reads=3))
        return name

    def same(self, name: str) -> None:
        """The run ends with the model of one process, in one attempt a round, and leaves no key and no spool."""
        eventually(lambda: self.bed.info(name).state in ("finished", "failed", "stopped"), 60.0, f"the end of {name}")
        info = self.bed.info(name)
        assert (info.state, info.error, info.rounds_done) == ("finished", "", ROUNDS)
        assert info.model_digest == in_one_process(plan(name, ROUNDS, 3, self.path, reads=3), 3, VALUES).digest
        eventually(lambda: not list((self.bed.home / "spool").glob(f"{name}.*")), 10.0, "an empty spool")
        assert not [key for key in self.keys() if key.startswith(f"{name}.")]
        assert self.rows(f"SELECT MAX(attempt) FROM rounds WHERE run='{name}'") == [(1,)]
        assert self.rows("SELECT COUNT(*) FROM letters") == [(0,)]
        self.sound = True

    def keys(self) -> list[str]:
        return sorted(path.name for path in keys_folder(load(self.bed.home), self.bed.home).iterdir())

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(f"file:{self.bed.home / 'journal.db'}?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()


@pytest.fixture(scope="module", params=["relay", "direct"])
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    adding.register()
    with Bed(tmp_path_factory.mktemp("letters"), VALUES) as bed:
        bed.start_server()
        for index, client in enumerate(CLIENTS):
            table = {"listen": "127.0.0.1:0", "patience_s": 30.0} if request.param == "direct" else None
            bed.join(client, index, peers=table)
            bed.start_client(client)
        yield Playground(bed, request.param)
    adding.forget()


@pytest.mark.slow
@pytest.mark.parametrize("point", SERVER)
def test_the_server_dies(ground: Playground, point: str) -> None:
    ground.everybody()
    ground.bed.daemon.stop(9)
    ground.bed.start_server({VARIABLE: f"{point}:{SERVER[point]}"})
    ground.bed.wait_connected(3)
    name = ground.submit()
    assert ground.bed.daemon.wait(30.0) == EXIT_CODE
    ground.bed.start_server()
    ground.same(name)


@pytest.mark.slow
@pytest.mark.parametrize("points", DEVICES, ids=lambda points: "+".join(points.values()))
def test_devices_die(ground: Playground, points: dict[str, str]) -> None:
    ground.everybody()
    for client, point in points.items():
        ground.bed.clients[client].stop(9)
        ground.bed.start_client(client, {VARIABLE: point})
    ground.bed.wait_connected(3)
    name = ground.submit()
    for _ in points:
        client = eventually(lambda: next((one for one in points if not ground.bed.clients[one].alive), ""), what="a death")
        assert ground.bed.clients[client].wait() == EXIT_CODE
        ground.bed.start_client(client)
    ground.same(name)


@pytest.mark.slow
def test_a_power_cut_takes_the_letters_and_not_the_round(ground: Playground) -> None:
    """Sealed letters are noise without their key: devices go on without them, or read their senders."""
    ground.everybody()
    ground.bed.daemon.stop(9)
    ground.bed.start_server({VARIABLE: "roster_closed:2"})
    ground.bed.wait_connected(3)
    name = ground.submit()
    assert ground.bed.daemon.wait(30.0) == EXIT_CODE
    # The first round's key outlives it only where the server relays what it sealed.
    expected = [f"{name}.1.1", f"{name}.2.1"] if ground.path == "relay" else [f"{name}.2.1"]
    assert ground.keys() == expected
    for key in expected:
        (keys_folder(load(ground.bed.home), ground.bed.home) / key).unlink()
    ground.bed.start_server()
    eventually(lambda: ground.bed.info(name).state != "running", 60.0, f"the end of {name}")
    assert ground.bed.info(name).state == "finished", ground.bed.info(name)
    # Not the model of one process: the second round had no letters, or is another attempt with the very same ones.
    same = ground.bed.info(name).model_digest == in_one_process(plan(name, ROUNDS, 3, ground.path, reads=3), 3, VALUES).digest
    assert same == (ground.path == "direct")
    assert ("no more" in ground.bed.log("dev-0")) == (ground.path == "relay")
