"""Masked sums: either side dies at every point and comes back; the same model, and every device answered one set, once.

Real processes, mutual TLS, one federation for the file. A round that was summed before a crash is summed again, to the bit;
what must never happen is a second set of survivors.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support.deaths import everybody_dies
from tests.support.masked_bed import Bed, digest_of, plan, points, summed

from edgehold.attacks.testbed import eventually
from edgehold.core.crashpoints import EXIT_CODE, VARIABLE
from edgehold.core.errors import FlError
from edgehold.core.privacy import ledger
from edgehold.server.config import keys_folder, load

REPOSITORY = Path(__file__).parents[2]
REPEATS = int(os.environ.get("EDGEHOLD_CRASH_REPEATS", "1"))

VALUES = 300_000  # 1.1 MiB under 32-bit masks: two chunks up
DEVICES = 8
ROUNDS = 2
ALL = tuple(range(DEVICES))
# Where the server dies, one point after the other in one run. A number above one falls into the midst of a step, or into the
# next round.
SERVER = (
    ("planned", "roster_closed", "advert_journaled", "advert_journaled:5"),
    ("groups_drawn", "shares_journaled", "shares_journaled:7", "chunk_stored:5"),
    ("upload_whole:3", "receipt_journaled:3", "frozen", "revealed_in_memory"),
    ("revealed_in_memory:4", "revealed_in_memory:12", "summed", "stored"),
    ("commit_journaled", "published", "receipt_journaled:8"),
)
# Eight devices die in one run, each at its own point.
TOGETHER: tuple[Mapping[str, str], ...] = (
    dict(zip(
        [f"dev-{index}" for index in ALL],
        ("advert_stored:1", "shares_stored:1", "boxes_stored:1", "masked_not_stored:1", "masked_stored:1", "upload_started:1",
         "mid_upload:1", "uploaded_no_receipt:1"),
        strict=True,
    )),
    dict(zip(
        [f"dev-{index}" for index in ALL],
        ("receipt_not_recorded:1", "recorded:1", "reveal_not_sent:1", "task_received:2", "trained_not_stored:2",
         "stored_not_sent:2", "reveal_not_sent:2", "masked_not_stored:2"),
        strict=True,
    )),
)  # fmt: skip
PATIENT: dict[str, Any] = {"join_deadline_s": 60.0}


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Bed(tmp_path_factory.mktemp("masked-crash"), VALUES, DEVICES) as bed:
        bed.everybody()
        yield bed


def submit(bed: Bed, name: str, rounds: int = ROUNDS) -> None:
    """Hand in a plan; the server may die before it answers."""
    with contextlib.suppress(FlError):
        bed.submit(plan(name, rounds, size=DEVICES, **PATIENT))


def same(bed: Bed, name: str, rounds: int = ROUNDS) -> None:
    """The model of a run in which nobody dies, in one attempt a round, and nothing of the sums is left anywhere."""
    info = bed.ended(name, 90.0)
    assert (info.state, info.error, info.rounds_done) == ("finished", "", rounds)
    assert info.model_digest == digest_of(summed(VALUES, (ALL,) * rounds))
    assert bed.rows("SELECT MAX(attempt) FROM rounds WHERE run=?", name) == [(1,)]
    for number in range(1, rounds + 1):
        assert bed.survivors(name, number) == tuple(bed.names)
    found = bed.rows("SELECT round, COUNT(DISTINCT client), COUNT(*) FROM receipts WHERE run=? GROUP BY round", name)
    assert found == [(number, DEVICES, DEVICES) for number in range(1, rounds + 1)]
    bed.revealed_once(name, range(1, rounds + 1))
    bed.forgotten()
    assert bed.rows("SELECT (SELECT COUNT(*) FROM masks) + (SELECT COUNT(*) FROM mask_messages)") == [(0,)]
    eventually(lambda: not list((bed.home / "spool").glob(f"{name}.*")), 10.0, "an empty spool")


def test_every_point_of_masked_sums_is_in_the_matrix() -> None:
    server = "".join((REPOSITORY / "server/edgehold/server/rounds" / name).read_text() for name in ("masked.py", "summing.py"))
    assert points(server) <= {point.partition(":")[0] for chain in SERVER for point in chain}
    device = (REPOSITORY / "client/edgehold/client/masking.py").read_text()
    # Reached where there is noise, whose models no undisturbed run repeats: see below.
    assert points(device) - {"noise_charged"} <= {p.partition(":")[0] for one in TOGETHER for p in one.values()}


def test_nobody_dies(bed: Bed) -> None:
    submit(bed, "control")
    same(bed, "control")


@pytest.mark.slow
@pytest.mark.parametrize("repeat", range(REPEATS))
@pytest.mark.parametrize("number", range(len(SERVER)))
def test_the_server_dies(bed: Bed, number: int, repeat: int) -> None:
    name, deaths = f"server-{number}-{repeat}", SERVER[number]
    bed.daemon.stop(9)
    bed.start_server({VARIABLE: deaths[0]})
    bed.wait_connected(DEVICES)
    submit(bed, name, len(deaths))
    for point in deaths[1:]:
        assert bed.daemon.wait(30.0) == EXIT_CODE
        bed.daemon.start({VARIABLE: point})  # it may die before it says that it is ready
    assert bed.daemon.wait(30.0) == EXIT_CODE
    bed.start_server()
    same(bed, name, len(deaths))


@pytest.mark.slow
@pytest.mark.parametrize("repeat", range(REPEATS))
@pytest.mark.parametrize("number", range(len(TOGETHER)))
def test_devices_die(bed: Bed, number: int, repeat: int) -> None:
    name, deaths = f"devices-{number}-{repeat}", dict(TOGETHER[number])
    for client, point in deaths.items():
        bed.restart(client, {VARIABLE: point})
    bed.wait_connected(DEVICES)
    submit(bed, name)
    while deaths:
        client = eventually(lambda: next((one for one in deaths if not bed.clients[one].alive), ""), what="a death")
        assert bed.clients[client].wait() == EXIT_CODE
        bed.start_client(client)
        del deaths[client]
    same(bed, name)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["shares_journaled:6", "revealed_in_memory:4"])
def test_everybody_dies(bed: Bed, point: str) -> None:
    """The server in the midst of a step, and every device at a point of its own, in one run."""
    name = f"everybody-{point.replace(':', '-')}".replace("_", "-")
    first = ("advert_stored", "shares_stored", "boxes_stored", "masked_stored", "mid_upload", "recorded", "reveal_not_sent")
    deaths = dict(zip(bed.names, (*first, "masked_not_stored"), strict=True))
    info = everybody_dies(bed, name, plan(name, ROUNDS, size=DEVICES, **PATIENT), point, deaths)
    assert info.state == "finished", info
    same(bed, name)


@pytest.mark.slow
def test_power_loss_takes_the_round_key_and_a_new_attempt_sums(bed: Bed) -> None:
    """Before anybody revealed the attempt may be repeated, with new keys and new groups."""
    bed.daemon.stop(9)
    bed.start_server({VARIABLE: "receipt_journaled:5"})
    bed.wait_connected(DEVICES)
    submit(bed, "power", 1)
    assert bed.daemon.wait(30.0) == EXIT_CODE
    for key in keys_folder(load(bed.home), bed.home).iterdir():
        key.unlink()
    bed.start_server()
    info = bed.ended("power", 90.0)
    assert (info.state, info.error, info.rounds_done) == ("finished", "", 1)
    assert info.model_digest == digest_of(summed(VALUES, (ALL,)))
    assert bed.rows("SELECT attempt, state FROM rounds WHERE run='power' ORDER BY attempt") == [
        (1, "abandoned"),
        (2, "committed"),
    ]
    bed.revealed_once("power", (1,))
    bed.forgotten()


@pytest.mark.slow
def test_power_loss_after_the_reveals_voids_the_round_and_the_run_goes_on(bed: Bed) -> None:
    """The vectors are gone, and devices that have revealed are not summed again in this round: another attempt could only fail,
    today and whenever the run is resumed.
    """
    bed.daemon.stop(9)
    bed.start_server({VARIABLE: "summed:1"})
    bed.wait_connected(DEVICES)
    submit(bed, "lost", 2)
    assert bed.daemon.wait(30.0) == EXIT_CODE
    for key in keys_folder(load(bed.home), bed.home).iterdir():
        key.unlink()
    bed.start_server()
    info = bed.ended("lost", 90.0)
    assert (info.state, info.error, info.rounds_done) == ("finished", "", 2)
    assert info.model_digest == digest_of(summed(VALUES, ((), ALL)))
    assert bed.survivors("lost", 1) == ()
    assert bed.rows("SELECT MAX(attempt) FROM rounds WHERE run='lost'") == [(1,)]
    bed.revealed_once("lost", (1, 2))
    bed.forgotten()


# ---- with noise

BUDGET = {"numbers": (8.0, 1e-5)}


@pytest.mark.slow
def test_noise_is_neither_drawn_nor_charged_twice(tmp_path: Path) -> None:
    """Devices die around the charge and the draw: one charge per round, and what was stored is what is sent."""
    with Bed(tmp_path, 1000, DEVICES) as bed:
        bed.everybody(BUDGET)
        deaths = {
            "dev-0": "charge_written", "dev-1": "charged", "dev-2": "noise_charged", "dev-3": "masked_not_stored",
            "dev-4": "masked_stored", "dev-5": "uploaded_no_receipt", "dev-6": "reveal_not_sent",
        }  # fmt: skip
        for client, point in deaths.items():
            bed.restart(client, {VARIABLE: point})
        bed.wait_connected(DEVICES)
        bed.submit(plan("noised", size=DEVICES, masks={"norm": 2.0, "noise_multiplier": 10.0}, **PATIENT))
        while deaths:
            client = eventually(lambda: next((one for one in deaths if not bed.clients[one].alive), ""), what="a death")
            assert bed.clients[client].wait() == EXIT_CODE
            bed.start_client(client)
            del deaths[client]
        info = bed.ended("noised")
        assert (info.state, info.error) == ("finished", "")
        assert bed.survivors("noised") == tuple(bed.names)
        assert bed.rows("SELECT MAX(attempt) FROM rounds WHERE run='noised'") == [(1,)]
        for client in bed.names:
            assert [(line.run, line.round) for line in ledger.read(bed.folder / client / "ledger.db").lines] == [("noised", 1)]
        bed.revealed_once("noised", (1,))
        bed.forgotten()
