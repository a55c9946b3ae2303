"""Servers stopped and killed in mid-round, clients frozen, killed and replaced: the run goes on to the same model."""

import asyncio
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import StatusCode
from tests.support import inprocess, wire
from tests.support.wire import Device, honest_update

from edgehold.attacks.testbed import Federation, eventually
from edgehold.proto.v1.admin_pb2 import RunInfo

ENTRY = "edgehold.client.data.synthetic:make_task"
VALUES = 50_000  # 200 kB: too much to travel inside the task
CLIENTS = ("dev-0", "dev-1", "dev-2")
SLOW = "dev-2"


def plan(name: str, round_deadline_s: float = 40.0) -> str:
    return (
        f'[run]\nname = "{name}"\nrounds = 2\ntask = "synthetic"\n'
        f"[cohort]\nsize = 3\nquorum = 3\nover_select = 1.0\njoin_deadline_s = 40.0\n"
        f"round_deadline_s = {round_deadline_s}\nmax_attempts = 100\n"
        '[method]\nname = "fedavg"\nserver_momentum = 0.5\n[evaluation]\nevery = 0\n'
    )


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Three clients whose updates and weights differ, so that a lost or doubled one would change the model."""
    with Federation(tmp_path_factory.mktemp("bed"), tasks={"synthetic": (ENTRY, {"values": VALUES})}) as bed:
        bed.start_server()
        for index, client in enumerate(CLIENTS):
            bed.add_client(client, {"synthetic": (ENTRY, {"values": VALUES, "device_index": index, "samples": index + 1})})
            bed.start_client(client)
        bed.wait_connected(len(CLIENTS))
        yield bed


@pytest.fixture(scope="module")
def undisturbed(bed: Federation) -> bytes:
    """Digest of the model of a run in which nothing happens."""
    info = bed.run(plan("undisturbed"))
    assert info.state == "finished", info
    return info.model_digest


def receipts(bed: Federation, run: str) -> list[tuple[int, int, str, int]]:
    """(round, attempt, client, sequence) of every update counted so far."""
    db = sqlite3.connect(f"file:{bed.home / 'journal.db'}?mode=ro", uri=True)
    try:
        return db.execute("SELECT round, attempt, client, seq FROM receipts WHERE run=? ORDER BY seq", (run,)).fetchall()
    finally:
        db.close()


def freeze(bed: Federation, client: str) -> None:
    child = bed.clients[client].child
    assert child is not None
    child.send_signal(signal.SIGSTOP)


def thaw(bed: Federation, client: str) -> None:
    child = bed.clients[client].child
    assert child is not None
    child.send_signal(signal.SIGCONT)


def half_way(bed: Federation, name: str) -> list[tuple[int, int, str, int]]:
    """A run that stands in the middle of its first round: two updates are in, the third client is frozen."""
    bed.wait_connected(len(CLIENTS))
    freeze(bed, SLOW)
    bed.submit(plan(name))
    return eventually(lambda: len(found := receipts(bed, name)) == 2 and found, what="two receipts") or []


def check(bed: Federation, name: str, undisturbed: bytes) -> RunInfo:
    """The run ends as if nothing had happened, with every client counted once in each round."""
    info = bed.watch(name)
    assert info.state == "finished", info
    assert info.model_digest == undisturbed
    closing = {(number, attempt) for number, attempt, _, _ in receipts(bed, name)}
    last = {number: max(attempt for n, attempt in closing if n == number) for number, _ in closing}
    for number, attempt in last.items():
        counted = sorted(client for n, a, client, _ in receipts(bed, name) if (n, a) == (number, attempt))
        assert counted == sorted(CLIENTS)
    return info


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_ends_in_mid_round_goes_on_where_it_stood(
    bed: Federation, undisturbed: bytes, number: signal.Signals
) -> None:
    name = f"server-{number.name.lower()}"
    before = half_way(bed, name)
    assert bed.daemon.stop(number) == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    bed.start_server()
    thaw(bed, SLOW)
    check(bed, name, undisturbed)
    # What had been counted was not asked for again.
    assert receipts(bed, name)[:2] == before
    assert {attempt for _, attempt, _, _ in receipts(bed, name)} == {1}


def test_a_client_killed_in_mid_round_comes_back_and_answers(bed: Federation, undisturbed: bytes) -> None:
    half_way(bed, "client-killed")
    bed.clients[SLOW].stop(signal.SIGKILL)
    eventually(lambda: bed.connected() == 2, what="the server notices")
    bed.start_client(SLOW)
    check(bed, "client-killed", undisturbed)
    assert {attempt for _, attempt, _, _ in receipts(bed, "client-killed")} == {1}


def test_a_client_frozen_beyond_the_deadline_costs_an_attempt_and_nothing_else(bed: Federation, undisturbed: bytes) -> None:
    bed.wait_connected(len(CLIENTS))
    freeze(bed, SLOW)
    bed.submit(plan("client-frozen", round_deadline_s=1.0))
    eventually(lambda: bed.info("client-frozen") and max((r[1] for r in receipts(bed, "client-frozen")), default=0) > 1)
    thaw(bed, SLOW)
    check(bed, "client-frozen", undisturbed)


def test_the_newest_stream_of_a_client_is_the_one_that_counts(tmp_path: Path) -> None:
    async def play() -> None:
        async with inprocess.server(tmp_path / "server") as place:
            older = await place.device("dev")
            newer = Device(older.credentials)
            await older.connect()
            await newer.connect()
            with pytest.raises(EOFError):
                await older.event()
            assert (await wire.status(place.stub)).clients_connected == 1
            one = plan("replaced").replace("= 3\n", "= 1\n").replace("rounds = 2", "rounds = 1")
            await wire.submit(place.stub, one)
            older.assignment = await newer.task("replaced")
            # Streams and calls are apart: the older connection is still the same client.
            assert (await older.upload(honest_update(1000))).status is StatusCode.OK
            assert (await wire.finished(place.stub, "replaced")).state == "finished"
            await older.channel.close()
            await newer.channel.close()

    asyncio.run(play())
