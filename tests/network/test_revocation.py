"""Clients shut out, let in again and enrolled anew; certificates and roots that change under a run."""

import asyncio
import json
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import StatusCode
from tests.support import inprocess, waiting, wire
from tests.support.inprocess import Place
from tests.support.wire import Device, call, honest_update

from edgehold.attacks.testbed import Federation, eventually
from edgehold.client import enrol
from edgehold.core import keys
from edgehold.core.errors import ConfigError, IdentityError
from edgehold.core.identity import identity_of
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.server.identity.ca import CertificateAuthority
from edgehold.server.identity.tokens import Tokens

VALUES = 1000
CALLS_S, STREAMS_S = 1.0, 5.0
"""What the security model promises: new calls refused, open streams cut, within so many seconds of a revocation."""


def plan(name: str, size: int, quorum: int, rounds: int = 1) -> str:
    return (
        f'[run]\nname = "{name}"\nrounds = {rounds}\ntask = "synthetic"\n'
        f"[cohort]\nsize = {size}\nquorum = {quorum}\nover_select = 1.0\njoin_deadline_s = 30.0\nround_deadline_s = 30.0\n"
        '[method]\nname = "fedavg"\n[weights]\nby = "equal"\n[evaluation]\nevery = 0\n'
    )


@asynccontextmanager
async def meeting(folder: Path, clients: Sequence[str]) -> AsyncIterator[tuple[Place, list[Device]]]:
    """A server and connected clients by hand."""
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(inprocess.server(folder / "server", values=VALUES))
        devices = [await stack.enter_async_context(await place.device(client)) for client in clients]
        for device in devices:
            await device.connect()
        yield place, devices


async def task(place: Place, devices: Sequence[Device], run: str, quorum: int) -> None:
    """A run of one round, of which every device has its task."""
    await wire.submit(place.stub, plan(run, len(devices), quorum))
    for device in devices:
        await device.task(run)


async def refused(device: Device) -> None:
    """Every call of the device is refused, on the connection it has and on a new one."""
    async with Device(device.credentials) as anew:
        anew.assignment = device.assignment
        for one in (device, anew):
            answer = await call(one.channel, "ControlService/Connect", one.hello())
            assert (answer.status, answer.code) == (StatusCode.PERMISSION_DENIED, "identity"), answer
            answer = await one.upload(honest_update(VALUES))
            assert (answer.status, answer.code) == (StatusCode.PERMISSION_DENIED, "identity"), answer


@pytest.mark.parametrize("state", ["revoked", "suspended"])
def test_whoever_is_shut_out_is_refused_at_once_and_cut_off(tmp_path: Path, state: str) -> None:
    async def play() -> None:
        async with meeting(tmp_path, ["out", "in-1", "in-2"]) as (place, (out, *others)):
            await task(place, [out, *others], "round", quorum=2)
            payload = honest_update(VALUES)
            begun = asyncio.Event()

            async def half() -> AsyncIterator[bytes]:
                yield out.first(payload, payload[:100])
                begun.set()
                await asyncio.Event().wait()

            uploading = asyncio.create_task(call(out.channel, "TransferService/Upload", source=half()))
            await begun.wait()

            async def started() -> bool:
                return (await out.resume(payload)).offset == 100

            await waiting.eventually_async(started, what="the first bytes are there")
            before = time.monotonic()
            await wire.set_state(place.stub, "out", state)
            await refused(out)
            assert time.monotonic() - before < CALLS_S

            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await out.event()
            assert ended.value.code() is StatusCode.PERMISSION_DENIED
            cut = await uploading
            assert (cut.status, cut.code) == (StatusCode.PERMISSION_DENIED, "identity"), cut
            assert time.monotonic() - before < STREAMS_S
            with pytest.raises(IdentityError):
                await enrol.renew(out.credentials, tmp_path / "out" / "identity")

            for device in others:
                assert (await device.upload(payload)).status is StatusCode.OK
            info = await wire.finished(place.stub, "round")
            assert (info.state, info.latest.facts["clients_admitted"]) == ("finished", 2.0)

    asyncio.run(play())


def test_an_update_of_a_client_revoked_before_the_freeze_does_not_count(tmp_path: Path) -> None:
    async def play() -> None:
        async with meeting(tmp_path, ["out", "in-1", "in-2"]) as (place, (out, *others)):
            await task(place, [out, *others], "round", quorum=2)
            assert (await out.upload(honest_update(VALUES, 8.0))).status is StatusCode.OK
            assert (await others[0].upload(honest_update(VALUES, 1.0))).status is StatusCode.OK
            await wire.set_state(place.stub, "out", "revoked")
            assert (await others[1].upload(honest_update(VALUES, 3.0))).status is StatusCode.OK

            info = await wire.finished(place.stub, "round")
            assert info.state == "finished"
            assert survivors(place.home) == [["in-1", "in-2"]]
            # The mean of 1 and 3, and not of 8, 1 and 3, in every one of the values.
            assert info.latest.facts["step_norm"] == pytest.approx(2.0 * math.sqrt(VALUES), rel=1e-6)

    asyncio.run(play())


def test_an_update_of_a_client_revoked_after_the_commit_stays(tmp_path: Path) -> None:
    async def play() -> None:
        async with meeting(tmp_path, ["out", "in-1"]) as (place, devices):
            await task(place, devices, "round", quorum=2)
            for device in devices:
                assert (await device.upload(honest_update(VALUES))).status is StatusCode.OK
            info = await wire.finished(place.stub, "round")
            await wire.set_state(place.stub, "out", "revoked")
            assert survivors(place.home) == [["in-1", "out"]]
            assert (await wire.finished(place.stub, "round")).model_digest == info.model_digest

    asyncio.run(play())


def survivors(home: Path) -> list[list[str]]:
    """Who counted, round by round, as the audit log has it."""
    db = sqlite3.connect(f"file:{home / 'journal.db'}?mode=ro", uri=True)
    try:
        rows = db.execute("SELECT detail FROM audit WHERE event = 'round_committed' ORDER BY seq").fetchall()
    finally:
        db.close()
    return [json.loads(row[0])["survivors"] for row in rows]


def test_a_suspended_client_comes_back_with_the_certificate_it_has_and_a_revoked_one_does_not(tmp_path: Path) -> None:
    async def play() -> None:
        async with meeting(tmp_path, ["dev"]) as (place, (device,)):
            await wire.set_state(place.stub, "dev", "suspended")
            await refused(device)
            await wire.set_state(place.stub, "dev", "active")
            await device.connect()
            await task(place, [device], "back", quorum=1)
            assert (await device.upload(honest_update(VALUES))).status is StatusCode.OK
            assert (await wire.finished(place.stub, "back")).state == "finished"

            await wire.set_state(place.stub, "dev", "revoked")
            for state in ("active", "suspended"):
                with pytest.raises(ConfigError, match="mint a new token"):
                    await wire.set_state(place.stub, "dev", state)
            await refused(device)

    asyncio.run(play())


def test_after_a_new_enrolment_the_old_certificate_is_worth_nothing(tmp_path: Path) -> None:
    async def play() -> None:
        async with meeting(tmp_path, ["dev"]) as (place, (old,)):
            await wire.set_state(place.stub, "dev", "revoked")
            # Certificates count whole seconds: a second later the old one is the older one for certain.
            await waiting.eventually(lambda: time.time() > old.credentials.issued_s + 1.0)
            bundle = await wire.bundle(place.stub, place.home, "dev")
            await refused(old)
            async with Device(await enrol.enrol(bundle, tmp_path / "dev" / "identity")) as new:
                await new.connect()
                await refused(old)
                with pytest.raises(IdentityError):
                    await enrol.renew(old.credentials, tmp_path / "stolen")
                await task(place, [new], "anew", quorum=1)
                assert (await new.upload(honest_update(VALUES))).status is StatusCode.OK
                assert (await wire.finished(place.stub, "anew")).state == "finished"

    asyncio.run(play())


def test_a_client_enrolled_anew_while_connected_loses_its_old_stream(tmp_path: Path) -> None:
    async def play() -> None:
        async with meeting(tmp_path, ["dev"]) as (place, (old,)):
            await waiting.eventually(lambda: time.time() > old.credentials.issued_s + 1.0)
            before = time.monotonic()
            await wire.bundle(place.stub, place.home, "dev")
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await old.event()
            assert ended.value.code() is StatusCode.PERMISSION_DENIED
            assert time.monotonic() - before < STREAMS_S

    asyncio.run(play())


# ---- certificates and roots that change under a run, with real clients

LIFE_S = 7.0
CLIENTS = ("dev-0", "dev-1")
ENTRY = "edgehold.client.data.synthetic:make_task"


def _issued_by(pem: bytes, root: x509.Certificate) -> bool:
    try:
        x509.load_pem_x509_certificate(pem).verify_directly_issued_by(root)
    except (ValueError, InvalidSignature):
        return False
    return True


class Rolling:
    """A federation whose certificates live for seconds, in the middle of a run that never ends by itself."""

    def __init__(self, bed: Federation) -> None:
        self.bed = bed
        self.authority = CertificateAuthority(bed.home / "ca")
        self._tokens = Tokens(bed.home / "ca")

    def close(self) -> None:
        self._tokens.close()

    def renewed(self, times: int) -> None:
        """Wait until every client has renewed so many more times, and until rounds are committed after that."""
        before = {client: len(self._tokens.issued(client)) for client in CLIENTS}
        eventually(
            lambda: all(len(self._tokens.issued(client)) >= before[client] + times for client in CLIENTS), 40.0, "renewals"
        )
        self.go_on()

    def go_on(self) -> None:
        done = self.bed.info("rolling").rounds_done
        eventually(lambda: self.bed.info("rolling").rounds_done >= done + 3, what="rounds go on")

    def certificate_root(self, client: str) -> bytes:
        """Fingerprint of the root that a client's certificate comes from."""
        pem = wire.load(self.bed.folder / client).chain_pem
        for root in self.authority.roots():
            if _issued_by(pem, root):
                return keys.fingerprint(root.public_bytes(Encoding.DER))
        return b""


def test_certificates_and_roots_change_under_a_run_and_no_round_fails(tmp_path: Path) -> None:
    limits = {"limits": {"certificate_life_s": LIFE_S}}
    with Federation(tmp_path / "bed", tasks={"synthetic": (ENTRY, {"values": VALUES})}, server=limits) as bed:
        bed.start_server()
        for index, client in enumerate(CLIENTS):
            bed.add_client(client, {"synthetic": (ENTRY, {"values": VALUES, "device_index": index})})
            bed.start_client(client)
        bed.wait_connected(len(CLIENTS))
        first = {client: wire.load(bed.folder / client) for client in CLIENTS}
        bed.submit(plan("rolling", len(CLIENTS), len(CLIENTS), rounds=1_000_000))
        rolling = Rolling(bed)
        try:
            old = keys.fingerprint(rolling.authority.current().public_bytes(Encoding.DER))
            new = rolling.authority.add_root()
            rolling.renewed(1)  # every client has heard of the second root
            rolling.authority.use_root(new)
            rolling.renewed(1)  # every client has a certificate from it
            assert {rolling.certificate_root(client) for client in CLIENTS} == {new}
            rolling.authority.remove_root(old)
            rolling.renewed(1)
        finally:
            rolling.close()

        assert all(identity_of(credentials.chain_pem).expires_s < time.time() for credentials in first.values())
        # Looked up before the run is stopped: whoever is sending just then comes too late, and is told so.
        db = sqlite3.connect(f"file:{bed.home / 'journal.db'}?mode=ro", uri=True)
        attempts = db.execute("SELECT max(attempt) FROM rounds WHERE run = 'rolling'").fetchall()
        refusals = db.execute("SELECT count(*) FROM audit WHERE event = 'refused'").fetchall()
        db.close()
        assert attempts == [(1,)], "a round failed under a renewal"
        assert refusals == [(0,)]
        bed.ask(lambda stub: stub.unary("StopRun", pb.StopRunRequest(run="rolling"), pb.StopRunResponse))
        assert bed.info("rolling").state == "stopped"
