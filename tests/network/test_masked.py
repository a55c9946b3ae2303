"""Masked sums among real daemons: exact models, devices that vanish at every step, what the server holds, budgets, stops."""

import contextlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from tests.support import wire
from tests.support.masked_bed import Bed, change, digest_of, files, holding, indices, plan, summed

from edgehold.attacks.testbed import eventually
from edgehold.client.data.synthetic import make_task
from edgehold.core.crashpoints import EXIT_CODE, VARIABLE
from edgehold.core.errors import ConfigError, FlError
from edgehold.core.facts import FACTS
from edgehold.core.plan import parse_plan
from edgehold.core.privacy import ledger
from edgehold.defenses import registry
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.server import engine
from edgehold.server.config import keys_folder, load

VALUES, DEVICES = 1000, 10
ALL = tuple(range(DEVICES))
# Of a group of ten at most k - t = 9 - 7 may vanish.
MAY_VANISH = 2
QUICK: dict[str, Any] = {"join_deadline_s": 1.0, "round_deadline_s": 20.0, "max_attempts": 1}
STEP = {"step_deadline_s": 3.0}


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Bed(tmp_path_factory.mktemp("masked"), VALUES, DEVICES) as bed:
        bed.everybody()
        yield bed


def fall(bed: Bed, point: str, clients: Sequence[str]) -> None:
    """Start devices that die at a point."""
    for client in clients:
        bed.restart(client, {VARIABLE: point})
    bed.wait_connected(DEVICES)


def back(bed: Bed, clients: Sequence[str]) -> None:
    """Start devices again that died."""
    for client in clients:
        assert bed.clients[client].wait(20.0) == EXIT_CODE
        bed.start_client(client)
    bed.wait_connected(DEVICES)
    bed.forgotten()


def test_the_masked_model_is_the_sum(bed: Bed) -> None:
    """Two rounds: exactly the sum of what lies on the grid, and within the grid's error what an unmasked run gives."""
    bed.submit(plan("exact", rounds=2))
    info = bed.ended("exact")
    assert (info.state, info.error, info.rounds_done) == ("finished", "", 2)
    model = summed(VALUES, (ALL, ALL))
    assert info.model_digest == digest_of(model)
    assert bed.survivors("exact", 2) == tuple(bed.names)
    tasks = {client: make_task(VALUES, index) for index, client in enumerate(bed.names)}
    parsed, settings = parse_plan(plan("plain", rounds=2, masked=False), registry.method)
    plain = engine.run(parsed, settings, tasks).model.whole()
    # Half a step for each device, divided by their number, in each round; and float32's rounding of values up to 8.
    step = 4.0 / ((2**32 - 1) // 32 // 2)
    assert np.abs(model - plain).max() <= 2 * (step / 2 + 2**-22)
    found = bed.facts("exact", 2)
    assert {key: value for key, value in found.items() if not key.endswith(("_bytes", "_seconds"))} == {
        "mask_groups": 1.0, "mask_groups_void": 0.0, "mask_groups_lost": 0.0, "mask_groups_recovered": 0.0,
        "mask_survivors": 10.0, "mask_gone_before_keys": 0.0, "mask_gone_before_shares": 0.0, "mask_gone_before_upload": 0.0,
        "mask_gone_before_reveal": 0.0, "mask_liars_withstood": 0.0,
    }  # fmt: skip
    # Each of ten devices sent nine sealed boxes and got nine; ids and framing come on top.
    assert 2 * 90 * 82 < found["mask_shares_bytes"] < 2 * 90 * 130
    assert found.keys() <= FACTS.keys()
    bed.revealed_once("exact", (1, 2))
    bed.forgotten()
    assert bed.rows("SELECT COUNT(*) FROM mask_messages") == [(0,)]


STAGES = {"advert_stored": "keys", "shares_stored": "shares", "boxes_stored": "upload", "reveal_not_sent": "reveal"}


@pytest.mark.slow
@pytest.mark.parametrize("gone", [MAY_VANISH, MAY_VANISH + 1])
@pytest.mark.parametrize("point", STAGES)
def test_devices_vanish(bed: Bed, point: str, gone: int) -> None:
    run, victims = f"gone-{STAGES[point]}-{gone}", bed.names[-gone:]
    fall(bed, point, victims)
    bed.submit(plan(run, masks=STEP, **QUICK))
    info = bed.ended(run)
    facts, before = {f"mask_gone_before_{STAGES[point]}": float(gone)}, make_task(VALUES).initial(5)
    if gone == MAY_VANISH:
        rest = ALL if point == "reveal_not_sent" else ALL[:-gone]
        assert (info.state, info.error) == ("finished", "")
        assert indices(bed.survivors(run)) == rest
        assert info.model_digest == digest_of(summed(VALUES, (rest,)))
    elif point == "reveal_not_sent":
        # Too few answers: the sum stays masked for ever, the round ends with the model it began with.
        assert (info.state, bed.survivors(run)) == ("finished", ())
        assert info.model_digest == digest_of(before)
        facts["mask_groups_lost"] = 1.0
    else:
        assert (info.state, info.rounds_done) == ("failed", 0)
        assert "did not reach its quorum" in info.error
        facts = {}
        assert not any(bed.reveals(client, run) for client in bed.names), "somebody revealed shares"
    if facts:
        found = bed.facts(run)
        assert {key: value for key, value in found.items() if "gone" in key and value} | {
            key: value for key, value in found.items() if key == "mask_groups_lost" and value
        } == facts
    back(bed, victims)


def secrets(bed: Bed, clients: Sequence[str]) -> Mapping[str, bytes]:
    """What nobody but its device, or nobody but the holders of its shares, may know."""
    found = {}
    start = make_task(VALUES).initial(5)
    parsed, _ = parse_plan(plan("any"), registry.method)
    total = np.zeros(VALUES, np.int64)
    for client in clients:
        state, delta = bed.state_of(client), change(start, int(client.removeprefix("dev-")))
        # Of 8-bit masks one bit in 256 would pass; these are 40 bytes of what lies within the vector, wherever that may be.
        lying = state.terms.grid.encode(delta)
        total += lying
        found[f"update of {client}"] = delta.tobytes()[400:440]
        found[f"vector of {client}"] = lying.astype("<u4").tobytes()[400:440]
        found[f"seed of {client}"], found[f"mask key of {client}"] = state.self_seed, state.mask_private
        found[f"seal key of {client}"] = state.seal_private
        for owner, (seed, mask) in state.held.items():
            found[f"seed share of {owner} at {client}"], found[f"mask share of {owner} at {client}"] = seed, mask
    found["the sum"] = total.astype("<u4").tobytes()[400:440]
    assert parsed.masks.bits == 32
    return found


@pytest.mark.slow
def test_what_the_server_holds_while_it_sums(bed: Bed) -> None:
    """Killed in the midst of the reveals: neither disk nor memory-backed storage has anything that unmasks, or an update."""
    bed.daemon.stop(9)
    bed.start_server({VARIABLE: f"revealed_in_memory:{DEVICES}"})
    bed.wait_connected(DEVICES)
    with contextlib.suppress(FlError):
        bed.submit(plan("held"))
    assert bed.daemon.wait(30.0) == EXIT_CODE
    known = secrets(bed, bed.names)
    folders = [bed.home, keys_folder(load(bed.home), bed.home)]
    places = [path for folder in folders for path in files(folder)]
    spool = [path for path in places if "spool" in path.parts]
    assert len(spool) == DEVICES, "the masked vectors should be here"
    assert [path for path in places if path.parent == folders[1]], "and the key they are sealed under"
    assert holding(places, known) == []
    # Control: the search does see what is there, on both sides.
    state = bed.state_of("dev-0")
    assert holding(places, {"advert": state.advert.mask_key})
    assert holding(files(bed.folder / "dev-0" / "outbox"), known) == []
    bed.start_server()
    assert bed.ended("held").model_digest == digest_of(summed(VALUES, (ALL,)))
    bed.revealed_once("held", (1,))
    bed.forgotten()
    assert holding([path for folder in folders for path in files(folder)], known) == []
    assert not [path for path in files(bed.home) if "spool" in path.parts]


def test_devices_that_send_nothing_unmasked(bed: Bed) -> None:
    bed.submit(plan("plain", masked=False, max_attempts=1))
    info = bed.ended("plain")
    assert (info.state, info.rounds_done) == ("failed", 0)
    assert "allow_unmasked is false" in info.error
    assert bed.rows("SELECT COUNT(*) FROM receipts WHERE run='plain'") == [(0,)]


def test_noise_on_devices_without_a_budget(bed: Bed) -> None:
    noise = {"norm": 1.0, "noise_multiplier": 1.0}
    bed.submit(plan("unpaid", masks=noise, max_attempts=1))
    info = bed.ended("unpaid")
    assert (info.state, info.rounds_done) == ("failed", 0)
    assert "spends a privacy budget and the policy has none for this data set" in info.error


def test_plans_that_cannot_be_masked(bed: Bed) -> None:
    """The other reasons not to begin are the plan's own, and nobody is asked."""
    for text, why in (
        (plan("bad").replace('"fedavg"\n', '"fedavg"\nrule = "median"\n'), "needs single updates"),
        (plan("bad", masks={"noise_multiplier": 1.0}), "without masks.norm"),
        (plan("bad", quorum=7, size=9), "a masked sum needs 8 devices"),
    ):
        with pytest.raises((ConfigError, FlError), match=why):
            bed.submit(text)


@pytest.mark.slow
def test_the_operator_stops_a_run_during_the_reveals(bed: Bed) -> None:
    """Some have revealed: the round ends as it began, is never summed again, and the next one goes on with everybody."""
    silent = bed.names[-3:]
    fall(bed, "reveal_not_sent", silent)
    bed.submit(plan("stopped", rounds=2, masks={"step_deadline_s": 60.0}))
    eventually(lambda: not any(bed.clients[client].alive for client in silent), 30.0, "three deaths")
    eventually(lambda: all(bed.reveals(client, "stopped") for client in bed.names), 20.0, "reveals")
    bed.ask(lambda stub: stub.unary("StopRun", pb.StopRunRequest(run="stopped"), pb.StopRunResponse))
    info = bed.info("stopped")
    assert (info.state, info.rounds_done) == ("stopped", 1)
    assert info.model_digest == digest_of(make_task(VALUES).initial(5))
    assert bed.survivors("stopped") == ()
    back(bed, silent)
    bed.ask(lambda stub: stub.unary("ResumeRun", pb.ResumeRunRequest(run="stopped"), pb.ResumeRunResponse))
    info = bed.ended("stopped")
    assert (info.state, info.error, info.rounds_done) == ("finished", "", 2)
    assert info.model_digest == digest_of(summed(VALUES, ((), ALL)))
    bed.revealed_once("stopped", (1, 2))


@pytest.mark.slow
def test_a_client_is_revoked_in_the_midst(bed: Bed) -> None:
    """Its keys are in and nothing else: it is one that vanished. Last, because it does not come back."""
    waiting, revoked = "dev-9", "dev-3"
    child = bed.clients[waiting].child
    assert child is not None
    child.send_signal(signal.SIGSTOP)
    try:
        bed.submit(plan("revoked", masks=STEP))
        came = "SELECT COUNT(*) FROM mask_messages WHERE run='revoked'"
        eventually(lambda: bed.rows(came) == [(DEVICES - 1,)], 20.0, "nine adverts")
        bed.ask(lambda stub: wire.set_state(stub, revoked, "revoked"))
    finally:
        child.send_signal(signal.SIGCONT)
    info = bed.ended("revoked")
    rest = tuple(index for index in ALL if index != 3)
    assert (info.state, info.error) == ("finished", "")
    assert indices(bed.survivors("revoked")) == rest
    assert info.model_digest == digest_of(summed(VALUES, (rest,)))
    assert bed.facts("revoked")["mask_gone_before_shares"] == 1.0
    assert not bed.reveals(revoked, "revoked")


# ---- noise

EIGHT = 8
NOISE = {"norm": 2.0, "noise_multiplier": 10.0}


@pytest.fixture(scope="module")
def paying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Eight devices whose budget suffices for some rounds of NOISE."""
    with Bed(tmp_path_factory.mktemp("noised"), VALUES, EIGHT) as bed:
        bed.everybody(budgets={"numbers": (2.0, 1e-5)})
        yield bed


def lines(bed: Bed, client: str) -> list[tuple[str, int]]:
    path = bed.folder / client / "ledger.db"
    return [(line.run, line.round) for line in ledger.read(path).lines] if path.exists() else []


@pytest.mark.slow
def test_noise_is_charged_before_it_is_drawn(paying: Bed) -> None:
    """A device dies between the charge and the first draw: charged, nothing stored; back again, charged once all the same."""
    bed, victim = paying, "dev-7"
    bed.restart(victim, {VARIABLE: "noise_charged"})
    bed.wait_connected(EIGHT)
    bed.submit(plan("noised", size=EIGHT, masks=NOISE))
    assert bed.clients[victim].wait(30.0) == EXIT_CODE
    assert lines(bed, victim) == [("noised", 1)]
    assert bed.state_of(victim).phase == "delivered", "nothing was masked yet"
    bed.start_client(victim)
    info = bed.ended("noised")
    assert (info.state, info.error, len(bed.survivors("noised"))) == ("finished", "", EIGHT)
    assert all(lines(bed, client) == [("noised", 1)] for client in bed.names)
    bed.revealed_once("noised", (1,))
    # Eight shares of a sixth (t + 1 = 6) of the variance in the sum, and the mean is an eighth of that.
    model = np.frombuffer((bed.home / "blobs" / info.model_digest.hex()).read_bytes(), "<f4")
    start = make_task(VALUES).initial(5)
    noise = (model - start).astype(np.float64) - np.mean(np.arange(1, 9)) / 1024
    spread = np.sqrt(8 / 6) * NOISE["norm"] * NOISE["noise_multiplier"] / 8
    # 1000 draws: the standard deviation is within 10 % of this but for a chance of 1 in 100,000.
    assert noise.std() == pytest.approx(spread, rel=0.1)
    assert abs(noise.mean()) < 5 * spread / np.sqrt(VALUES)


@pytest.mark.slow
def test_a_budget_that_does_not_suffice_declines(paying: Bed) -> None:
    before = {client: lines(paying, client) for client in paying.names}
    paying.submit(plan("dear", size=EIGHT, masks={"norm": 2.0, "noise_multiplier": 0.5}, **(QUICK | {"max_attempts": 1})))
    info = paying.ended("dear")
    assert (info.state, info.rounds_done) == ("failed", 0)
    # The first few to decline end the round for the others.
    assert " declined: the privacy budget of the data does not allow this round" in info.error
    assert {client: lines(paying, client) for client in paying.names} == before
    assert not any(paying.reveals(client, "dear") for client in paying.names)
    paying.forgotten()


def test_a_budget_is_not_for_sums_without_noise(paying: Bed) -> None:
    paying.submit(plan("free", size=EIGHT, max_attempts=1))
    info = paying.ended("free")
    assert (info.state, info.rounds_done) == ("failed", 0)
    assert "adds no noise here that could be charged" in info.error
