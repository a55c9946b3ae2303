"""One case per row of the table of bad inputs in the security model, over real mutual TLS against a real server process.

Each case is a round of three clients: mallory misbehaves, the others do not. What is asked of every case: the exact status
and code, one more refusal in the count, one line with the caller's name in the audit log, and a round that still completes.
"""

import asyncio
import hashlib
import math
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc import StatusCode
from tests.support import inprocess, wire
from tests.support.waiting import eventually
from tests.support.wire import Answer, Device, call, honest_update, more, update, with_task

from edgehold.attacks.testbed import Federation
from edgehold.client import enrol
from edgehold.core.errors import Busy, IdentityError
from edgehold.core.keys import key_pem, new_tls_key
from edgehold.core.manifest import SUPPORTED_VERSIONS
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import admin_pb2
from edgehold.proto.v1.control_pb2 import DeclineRequest
from edgehold.proto.v1.transfer_pb2 import DownloadRequest, ResumeRequest, UploadRequest
from edgehold.server.identity.ca import CertificateAuthority
from edgehold.server.identity.tokens import REFUSED, Tokens
from edgehold.server.rounds.runs import Runs

VALUES = 1000
CLIP = 1.0
RATE = 50.0
TASK = {"synthetic": ("edgehold.client.data.synthetic:make_task", {"values": VALUES})}
CLIENTS = ("mallory", "honest-1", "honest-2")
PLAN = """
[run]
name = "{run}"
rounds = 1
task = "synthetic"
[cohort]
size = 2
quorum = 2
over_select = 1.5
join_deadline_s = 20.0
round_deadline_s = 20.0
max_attempts = 1
[method]
name = "fedavg"
clip_norm = 1.0
[evaluation]
every = 0
"""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """One server for the table, with limits small enough to meet."""
    limits = {"progress_window_s": 0.6, "calls_per_second": RATE, "max_payload_bytes": 1 << 20}
    with Federation(tmp_path_factory.mktemp("bed"), tasks=TASK, server={"limits": limits}) as bed:
        bed.start_server()

        async def enrol_all() -> None:
            async with wire.operator(bed.home) as stub:
                for client in (*CLIENTS, "suspended", "revoked"):
                    await wire.enrolled(stub, bed.home, client, bed.folder / client / "identity")
                # On the roster and connected, but for another task: never selected, never allowed.
                await wire.enrolled(stub, bed.home, "elsewhere", bed.folder / "elsewhere" / "identity", ("other",))
                for client in ("suspended", "revoked"):
                    await wire.set_state(stub, client, client)

        asyncio.run(enrol_all())
        yield bed


@dataclass
class Scene:
    """An open round. refused: refusals by code before the case; audited: last audit line before it."""

    bed: Federation
    stub: Stub
    run: str
    devices: dict[str, Device]
    stack: AsyncExitStack
    payload: bytes = field(default_factory=lambda: honest_update(VALUES))

    @property
    def mallory(self) -> Device:
        """Who misbehaves."""
        return self.devices["mallory"]

    async def device(self, client: str, **changes: Any) -> Device:
        """Another enrolled client, with some of its credentials replaced, and with the task mallory was given."""
        found = await self.stack.enter_async_context(Device(replace(wire.load(self.bed.folder / client), **changes)))
        found.assignment = self.mallory.assignment
        return found

    async def forged(self, **how: Any) -> Device:
        """Somebody with a certificate made for the occasion."""
        like = wire.load(self.bed.folder / "mallory")
        found = await self.stack.enter_async_context(Device(wire.issued(self.bed.home, like, **how)))
        found.assignment = self.mallory.assignment
        return found


Act = Callable[[Scene], Awaitable[Answer]]


@dataclass(frozen=True)
class Case:
    """status, code: expected; code None: gRPC itself answers, nothing of ours hears of it. by: name in the audit line.

    cut_off: gRPC ends a call under way, which looks to the handler as if the client had gone.
    """

    name: str
    status: StatusCode
    code: str | None
    act: Act
    by: str = "mallory"
    check: Callable[[Answer], object] = lambda answer: True
    cut_off: bool = False


CASES: list[Case] = []


def case(status: StatusCode, code: str | None, by: str = "mallory", **more: Any) -> Callable[[Act], Act]:
    """Put a function on the table under its own name."""

    def put(act: Act) -> Act:
        CASES.append(Case(act.__name__, status, code, act, by, **more))
        return act

    return put


def on_table(name: str, status: StatusCode, code: str | None, act: Act, by: str = "mallory", **more: Any) -> None:
    """Put a lambda on the table."""
    CASES.append(Case(name, status, code, act, by, **more))


# ---- no certificate, wrong root, expired: the handshake fails


@case(StatusCode.UNAVAILABLE, None)
async def no_certificate(scene: Scene) -> Answer:
    roots = grpc.ssl_channel_credentials(scene.mallory.credentials.roots_pem)
    address = scene.mallory.credentials.server_address
    async with grpc.aio.secure_channel(address, roots, options=wire.UNBOUND) as channel:
        return await call(channel, "ControlService/Connect", scene.mallory.hello())


@case(StatusCode.UNAVAILABLE, None)
async def certificate_of_another_root(scene: Scene) -> Answer:
    folder = scene.bed.folder / "foreign"
    if not folder.exists():
        CertificateAuthority.create(folder / "ca", scene.bed.name)
    foreign = wire.issued(folder, scene.mallory.credentials)
    return await _hello(await scene.device("mallory", chain_pem=foreign.chain_pem))


@case(StatusCode.UNAVAILABLE, None)
async def expired_certificate(scene: Scene) -> Answer:
    return await _hello(await scene.forged(at_s=-7200.0, life_s=3600.0))


@case(StatusCode.UNAVAILABLE, None)
async def certificate_without_its_key(scene: Scene) -> Answer:
    return await _hello(await scene.device("mallory", key_pem=key_pem(new_tls_key())))


async def _hello(device: Device, **changes: Any) -> Answer:
    return await call(device.channel, "ControlService/Connect", device.hello(**changes))


# ---- unknown, suspended or revoked; id differs from SAN; plan not allowed


@case(StatusCode.PERMISSION_DENIED, "identity", by="stranger")
async def unknown_client_with_a_valid_certificate(scene: Scene) -> Answer:
    return await _hello(await scene.forged(name="stranger"))


@case(StatusCode.PERMISSION_DENIED, "identity", by="suspended")
async def suspended_client(scene: Scene) -> Answer:
    return await _hello(await scene.device("suspended"))


@case(StatusCode.PERMISSION_DENIED, "identity", by="revoked")
async def revoked_client(scene: Scene) -> Answer:
    return await _hello(await scene.device("revoked"))


@case(StatusCode.PERMISSION_DENIED, "identity", by="revoked")
async def revoked_client_uploading(scene: Scene) -> Answer:
    return await (await scene.device("revoked")).upload(scene.payload)


@case(StatusCode.PERMISSION_DENIED, "identity")
async def certificate_for_another_signing_key_than_the_roster(scene: Scene) -> Answer:
    other = replace(scene.mallory.credentials, signing_key=Ed25519PrivateKey.generate())
    device = await scene.stack.enter_async_context(Device(wire.issued(scene.bed.home, other)))
    return await _hello(device)


@case(StatusCode.PERMISSION_DENIED, "identity", by="operator")
async def operator_certificate_on_a_service_for_clients(scene: Scene) -> Answer:
    return await _hello(await scene.forged(role="operator", name="operator"))


on_table(
    "client_id_other_than_the_certificate", StatusCode.PERMISSION_DENIED, "identity",
    lambda scene: _hello(scene.mallory, client_id="honest-1"),
)  # fmt: skip
on_table(
    "signing_key_other_than_the_certificate", StatusCode.PERMISSION_DENIED, "identity",
    lambda scene: _hello(scene.mallory, signing_key=bytes(32)),
)  # fmt: skip
on_table(
    "manifest_for_another_client", StatusCode.PERMISSION_DENIED, "identity",
    lambda scene: scene.mallory.upload(scene.payload, client_id="honest-1"),
)  # fmt: skip
on_table(
    "manifest_for_another_federation", StatusCode.PERMISSION_DENIED, "identity",
    lambda scene: scene.mallory.upload(scene.payload, federation="elsewhere"),
)  # fmt: skip


@case(StatusCode.PERMISSION_DENIED, "identity", by="elsewhere")
async def plan_not_allowed(scene: Scene) -> Answer:
    device = await scene.device("elsewhere")
    await device.connect()
    return await device.upload(scene.payload)


# ---- manifest signature


@case(StatusCode.UNAUTHENTICATED, "bad_signature")
async def signature_of_another_key(scene: Scene) -> Answer:
    manifest = scene.mallory.manifest(scene.payload)
    other = scene.mallory.sign(manifest, Ed25519PrivateKey.generate())
    return await _send(scene, UploadRequest(manifest=manifest, signature=other, data=scene.payload))


@case(StatusCode.UNAUTHENTICATED, "bad_signature")
async def signature_over_other_fields(scene: Scene) -> Answer:
    manifest = scene.mallory.manifest(scene.payload)
    signature = scene.mallory.sign(with_task(manifest, round=2))
    return await _send(scene, UploadRequest(manifest=manifest, signature=signature, data=scene.payload))


@case(StatusCode.UNAUTHENTICATED, "bad_signature")
async def no_signature_when_resuming(scene: Scene) -> Answer:
    request = ResumeRequest(manifest=scene.mallory.manifest(scene.payload))
    return await call(scene.mallory.channel, "TransferService/Resume", request.SerializeToString())


@case(StatusCode.UNAUTHENTICATED, "bad_signature", by="elsewhere")
async def signature_by_a_key_nobody_has_shown(scene: Scene) -> Answer:
    fresh = replace(wire.load(scene.bed.folder / "elsewhere"), signing_key=Ed25519PrivateKey.generate())
    device = await scene.device("elsewhere", signing_key=fresh.signing_key)
    return await device.upload(scene.payload)


async def _send(scene: Scene, *messages: UploadRequest) -> Answer:
    return await call(scene.mallory.channel, "TransferService/Upload", *(m.SerializeToString() for m in messages))


# ---- old or future round, nonce, plan, attempt, base model; round closed; not selected

for name, changed in {
    "old_round": {"round": 0}, "future_round": {"round": 2}, "other_attempt": {"attempt": 2},
    "other_nonce": {"nonce": bytes(32)}, "other_plan": {"plan_digest": bytes(32)},
    "other_base_model": {"base_digest": bytes(32)},
    "other_run": {"run": "another"}, "newer_protocol_version": {"protocol_version": 2},
}.items():  # fmt: skip
    on_table(
        name, StatusCode.FAILED_PRECONDITION, "stale",
        lambda scene, changed=changed: scene.mallory.upload(scene.payload, **changed),  # type: ignore[misc]
    )  # fmt: skip


@case(StatusCode.FAILED_PRECONDITION, "stale")
async def round_closed(scene: Scene) -> Answer:
    await _complete(scene)
    return await scene.mallory.upload(scene.payload)


@case(StatusCode.FAILED_PRECONDITION, "stale")
async def round_closed_while_uploading(scene: Scene) -> Answer:
    async def slowly() -> AsyncIterator[bytes]:
        yield scene.mallory.first(scene.payload, scene.payload[:100])
        await _complete(scene)
        yield more(100, scene.payload[100:])

    return await call(scene.mallory.channel, "TransferService/Upload", source=slowly())


@case(StatusCode.FAILED_PRECONDITION, "stale")
async def declined_and_uploaded_all_the_same(scene: Scene) -> Answer:
    request = DeclineRequest(id=scene.mallory.assignment.id, code="policy_refused")
    answer = await call(scene.mallory.channel, "ControlService/Decline", request.SerializeToString())
    assert answer.status is StatusCode.OK, answer
    return await scene.mallory.upload(scene.payload)


@case(StatusCode.FAILED_PRECONDITION, "stale")
async def model_of_no_open_task(scene: Scene) -> Answer:
    request = DownloadRequest(digest=bytes(32)).SerializeToString()
    return await call(scene.mallory.channel, "TransferService/Download", request)


@case(StatusCode.FAILED_PRECONDITION, "stale")
async def not_selected(scene: Scene) -> Answer:
    # A fourth client of the same task, on the roster only from now on, so that the cohort is complete without it.
    folder = scene.bed.folder / "late" / "identity"
    async with Device(await wire.enrolled(scene.stub, scene.bed.home, "late", folder)) as late:
        late.assignment = scene.mallory.assignment
        await late.connect()
        answer = await late.upload(scene.payload)
    await wire.set_state(scene.stub, "late", "revoked")
    return answer


CASES[-1] = replace(CASES[-1], by="late")

# ---- the same upload again; another one


@case(StatusCode.OK, None)
async def same_upload_again(scene: Scene) -> Answer:
    first = await scene.mallory.upload(scene.payload)
    again = await scene.mallory.upload(scene.payload)
    assert again.receipt == first.receipt
    assert (await scene.mallory.resume(scene.payload)).receipt == first.receipt
    await _complete(scene)
    after = await scene.mallory.upload(scene.payload)
    assert after.receipt == first.receipt
    return after


@case(StatusCode.ALREADY_EXISTS, "duplicate")
async def second_upload_with_another_digest(scene: Scene) -> Answer:
    assert (await scene.mallory.upload(scene.payload)).status is StatusCode.OK
    return await scene.mallory.upload(honest_update(VALUES, 0.5))


# ---- above a limit


@case(StatusCode.RESOURCE_EXHAUSTED, None)
async def message_above_four_mebibytes(scene: Scene) -> Answer:
    return await _raw(scene, bytes((4 << 20) + 1))


@case(StatusCode.RESOURCE_EXHAUSTED, None, cut_off=True)
async def chunk_above_four_mebibytes(scene: Scene) -> Answer:
    first = scene.mallory.first(scene.payload, scene.payload[:100])
    return await call(scene.mallory.channel, "TransferService/Upload", first, bytes((4 << 20) + 1))


@case(StatusCode.RESOURCE_EXHAUSTED, None)
async def metadata_above_eight_kibibytes(scene: Scene) -> Answer:
    metadata = [("x-large", "a" * 10_000)]
    return await call(scene.mallory.channel, "ControlService/Connect", scene.mallory.hello(), metadata=metadata)


@case(StatusCode.RESOURCE_EXHAUSTED, "too_large")
async def control_message_above_its_limit(scene: Scene) -> Answer:
    return await _hello(scene.mallory, software="a" * (257 << 10))


@case(StatusCode.RESOURCE_EXHAUSTED, "too_large")
async def text_field_above_its_limit(scene: Scene) -> Answer:
    return await _hello(scene.mallory, software="a" * 257)


@case(StatusCode.RESOURCE_EXHAUSTED, "too_large")
async def chunk_above_one_mebibyte(scene: Scene) -> Answer:
    return await _send(scene, UploadRequest(data=bytes((1 << 20) + 8193)))


@case(StatusCode.RESOURCE_EXHAUSTED, "too_large")
async def data_above_one_mebibyte(scene: Scene) -> Answer:
    whole = UploadRequest.FromString(scene.mallory.first(scene.payload))
    whole.data = bytes((1 << 20) + 1)
    return await _send(scene, whole)


on_table(
    "declared_total_above_its_limit", StatusCode.RESOURCE_EXHAUSTED, "too_large",
    lambda scene: scene.mallory.upload(scene.payload, payload_length=(1 << 20) + 1),
)  # fmt: skip

# ---- length, type, shape, kind; bytes that do not decode; fields, text and names we do not know

WRONG = (StatusCode.INVALID_ARGUMENT, "wrong_shape")
on_table(
    "declared_length_other_than_the_schema", *WRONG,
    lambda scene: scene.mallory.upload(scene.payload, payload_length=4 * VALUES - 1),
)  # fmt: skip
on_table("other_payload_kind", *WRONG, lambda scene: scene.mallory.upload(scene.payload, payload_kind="fedavg/2"))
on_table("nonce_of_31_bytes", *WRONG, lambda scene: scene.mallory.upload(scene.payload, nonce=bytes(31)))
on_table("digest_of_33_bytes", *WRONG, lambda scene: scene.mallory.upload(scene.payload, payload_digest=bytes(33)))
on_table("name_that_is_none", *WRONG, lambda scene: scene.mallory.upload(scene.payload, run="../journal"))
on_table("client_id_that_is_no_name", *WRONG, lambda scene: _hello(scene.mallory, client_id="Mallory!"))
on_table("body_one_value_short", *WRONG, lambda scene: scene.mallory.upload(honest_update(VALUES - 1)))
on_table("body_one_value_long", *WRONG, lambda scene: scene.mallory.upload(honest_update(VALUES + 1)))
on_table("payload_without_header", *WRONG, lambda scene: scene.mallory.upload(bytes(4) + bytes(4 * VALUES)))
on_table(
    "payload_header_beyond_the_payload", *WRONG,
    lambda scene: scene.mallory.upload(b"\xff\xff\x00\x00" + scene.payload[4:]),
)  # fmt: skip
on_table(
    "payload_header_that_does_not_decode", *WRONG,
    lambda scene: scene.mallory.upload(b"\x02\x00\x00\x00\x0a\x05" + bytes(4 * VALUES)),
)  # fmt: skip
on_table("undecodable_bytes", *WRONG, lambda scene: _raw(scene, b"\x12\xff\xff"))
on_table("unknown_field", *WRONG, lambda scene: _raw(scene, scene.mallory.hello() + b"\x7a\x01x"))
on_table("bad_utf_8", *WRONG, lambda scene: _raw(scene, b"\x08\x01\x12\x07mall\xffry"))
on_table("padded_varint", *WRONG, lambda scene: _raw(scene, b"\x08\x81\x00" + scene.mallory.hello()[2:]))
on_table("repeated_field", *WRONG, lambda scene: _raw(scene, b"\x08\x01" + scene.mallory.hello()))
on_table("spelled_out_default", *WRONG, lambda scene: _raw(scene, scene.mallory.hello(software="") + b"\x22\x00"))
on_table("group_that_never_ends", *WRONG, lambda scene: _raw(scene, scene.mallory.hello() + b"\x7b" * 200))
on_table("signing_key_of_31_bytes", *WRONG, lambda scene: _hello(scene.mallory, signing_key=bytes(31)))
on_table("upload_without_manifest", *WRONG, lambda scene: _send(scene, UploadRequest(data=scene.payload)))


async def _raw(scene: Scene, data: bytes) -> Answer:
    return await call(scene.mallory.channel, "ControlService/Connect", data)


@case(*WRONG)
async def undecodable_chunk_in_mid_upload(scene: Scene) -> Answer:
    first = scene.mallory.first(scene.payload, scene.payload[:100])
    return await call(scene.mallory.channel, "TransferService/Upload", first, b"\x22\xff")


@case(*WRONG)
async def second_manifest_in_one_upload(scene: Scene) -> Answer:
    first = scene.mallory.first(scene.payload, scene.payload[:100])
    return await call(scene.mallory.channel, "TransferService/Upload", first, first)


@case(*WRONG)
async def more_bytes_than_declared(scene: Scene) -> Answer:
    return await call(scene.mallory.channel, "TransferService/Upload", scene.mallory.first(scene.payload, scene.payload + b"x"))


@case(*WRONG)
async def decline_with_a_code_that_does_not_exist(scene: Scene) -> Answer:
    request = DeclineRequest(id=scene.mallory.assignment.id, code="because")
    return await call(scene.mallory.channel, "ControlService/Decline", request.SerializeToString())


@case(*WRONG)
async def download_beyond_the_model(scene: Scene) -> Answer:
    request = DownloadRequest(digest=scene.mallory.assignment.base_digest, offset=1 << 40)
    return await call(scene.mallory.channel, "TransferService/Download", request.SerializeToString())


# ---- numbers


def _odd(value: float) -> bytes:
    values = np.zeros(VALUES, "<f4")
    values[-1] = value
    return update(values)


def _norm(norm: float) -> bytes:
    return update(np.full(VALUES, norm / math.sqrt(VALUES), "<f4"))


INVALID = StatusCode.INVALID_ARGUMENT
on_table("nan", INVALID, "not_finite", lambda scene: scene.mallory.upload(_odd(math.nan)))
on_table("infinity", INVALID, "not_finite", lambda scene: scene.mallory.upload(_odd(math.inf)))
on_table("minus_infinity", INVALID, "not_finite", lambda scene: scene.mallory.upload(_odd(-math.inf)))
on_table("no_samples", INVALID, "outside_law", lambda scene: scene.mallory.upload(update(np.zeros(VALUES, "<f4"), 0)))
on_table("norm_above_1000_clips", INVALID, "outside_law", lambda scene: scene.mallory.upload(_norm(1000.1 * CLIP)))


@case(StatusCode.OK, None)
async def norm_below_1000_clips_is_clipped_and_counted(scene: Scene) -> Answer:
    answer = await scene.mallory.upload(_norm(999.9 * CLIP))
    await _complete(scene)
    info = await wire.finished(scene.stub, scene.run)
    assert info.latest.facts["updates_clipped"] == 1.0
    assert info.latest.facts["step_norm"] < CLIP
    return answer


# ---- compression, unknown methods


@case(StatusCode.UNIMPLEMENTED, None)
async def compressed_message(scene: Scene) -> Answer:
    hello = scene.mallory.hello(software="a" * 200)
    return await call(scene.mallory.channel, "ControlService/Connect", hello, compression=grpc.Compression.Gzip)


on_table(
    "unknown_method", StatusCode.UNIMPLEMENTED, None,
    lambda scene: call(scene.mallory.channel, "/edgehold.proto.v1.ControlService/Explode", b""),
)  # fmt: skip
on_table(
    "unknown_service", StatusCode.UNIMPLEMENTED, None,
    lambda scene: call(scene.mallory.channel, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b""),
)  # fmt: skip

# ---- chunks


@case(
    StatusCode.OUT_OF_RANGE, "beyond_offset",
    check=lambda answer: answer.detail is not None and answer.detail.expected_offset == 100,
)  # fmt: skip
async def chunk_beyond_the_expected_offset(scene: Scene) -> Answer:
    first = scene.mallory.first(scene.payload, scene.payload[:100])
    return await call(scene.mallory.channel, "TransferService/Upload", first, more(101, scene.payload[101:]))


@case(StatusCode.ABORTED, "conflicting")
async def overlapping_chunk_with_other_bytes(scene: Scene) -> Answer:
    first = scene.mallory.first(scene.payload, scene.payload[:100])
    answer = await call(scene.mallory.channel, "TransferService/Upload", first, more(50, b"\xee" * 100))
    assert (await scene.mallory.resume(scene.payload)).offset == 0, "the upload was not discarded"
    return answer


@case(StatusCode.OK, None)
async def overlapping_chunk_with_the_same_bytes(scene: Scene) -> Answer:
    first = scene.mallory.first(scene.payload, scene.payload[:100])
    chunks = (more(50, scene.payload[50:200]), more(0, scene.payload[:200]), more(200, scene.payload[200:]))
    return await call(scene.mallory.channel, "TransferService/Upload", first, *chunks)


@case(StatusCode.DATA_LOSS, "corrupted")
async def payload_that_does_not_match_its_digest(scene: Scene) -> Answer:
    answer = await scene.mallory.upload(scene.payload, payload_digest=hashlib.sha256(b"other").digest())
    # It may be sent again, and then it counts.
    assert (await scene.mallory.upload(scene.payload)).status is StatusCode.OK
    return answer


@case(StatusCode.DEADLINE_EXCEEDED, "peer_gone")
async def upload_that_stops_moving(scene: Scene) -> Answer:
    async def stuck() -> AsyncIterator[bytes]:
        yield scene.mallory.first(scene.payload, scene.payload[:100])
        await asyncio.Event().wait()

    return await call(scene.mallory.channel, "TransferService/Upload", source=stuck())


@case(StatusCode.DEADLINE_EXCEEDED, "peer_gone")
async def upload_that_trickles(scene: Scene) -> Answer:
    async def trickle() -> AsyncIterator[bytes]:
        yield scene.mallory.first(scene.payload, scene.payload[:1])
        for at in range(1, len(scene.payload)):
            await asyncio.sleep(0.05)
            yield more(at, scene.payload[at : at + 1])

    return await call(scene.mallory.channel, "TransferService/Upload", source=trickle())


@case(StatusCode.DEADLINE_EXCEEDED, "peer_gone")
async def upload_that_never_begins(scene: Scene) -> Answer:
    async def silent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    return await call(scene.mallory.channel, "TransferService/Upload", source=silent())


on_table("upload_without_messages", StatusCode.DEADLINE_EXCEEDED, "peer_gone", lambda scene: _send(scene))


@case(StatusCode.DEADLINE_EXCEEDED, "peer_gone")
async def upload_that_ends_early(scene: Scene) -> Answer:
    answer = await call(
        scene.mallory.channel, "TransferService/Upload", scene.mallory.first(scene.payload, scene.payload[:100])
    )
    assert (await scene.mallory.resume(scene.payload)).offset == 100, "what arrived must not be sent again"
    return answer


# ---- versions


def _lists_versions(answer: Answer) -> bool:
    return answer.detail is not None and tuple(answer.detail.supported_versions) == SUPPORTED_VERSIONS


STALE = (StatusCode.FAILED_PRECONDITION, "stale")
on_table(
    "protocol_version_of_the_stream", *STALE, lambda scene: _hello(scene.mallory, protocol_version=99), check=_lists_versions
)
on_table(
    "protocol_version_of_an_upload", *STALE,
    lambda scene: scene.mallory.upload(scene.payload, protocol_version=99), check=_lists_versions,
)  # fmt: skip


async def _complete(scene: Scene) -> None:
    """The honest clients do their part; the round commits."""
    for device in scene.devices.values():
        if device is not scene.mallory:
            answer = await device.upload(honest_update(VALUES))
            # With mallory's update in, one honest one is enough, and the other comes too late.
            assert answer.status is StatusCode.OK or answer.code == "stale", answer
    info = await wire.finished(scene.stub, scene.run)
    assert (info.state, info.rounds_done) == ("finished", 1), info


@asynccontextmanager
async def opened(bed: Federation, run: str) -> AsyncIterator[Scene]:
    """A round in which everybody has a task and nobody has answered."""
    async with AsyncExitStack() as stack:
        stub = await stack.enter_async_context(wire.operator(bed.home))
        devices = {c: await stack.enter_async_context(Device(wire.load(bed.folder / c))) for c in CLIENTS}
        for device in devices.values():
            await device.connect()
        await wire.submit(stub, PLAN.format(run=run))
        for device in devices.values():
            await device.task(run)
        yield Scene(bed, stub, run, devices, stack)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_the_answer_is_exact_and_the_round_completes(bed: Federation, number: int) -> None:
    case = CASES[number]

    async def play() -> None:
        async with opened(bed, f"case-{number}") as scene:
            stub, refused, line = scene.stub, await _refused(scene.stub), _last_line(bed.home)

            answer = await case.act(scene)
            assert (answer.status, answer.code) == (case.status, case.code), answer
            assert case.check(answer), answer

            found = await _refused(stub)
            expected = dict(refused)
            if case.code:
                expected[case.code] = expected.get(case.code, 0) + answer.tries
                seen = await eventually(lambda: _lines(bed.home, line), what="an audit line")
                assert (case.by, case.code) in seen, seen
            # Others of the same round may come too late; nothing else may be refused.
            free = {"stale": 1} | ({"peer_gone": 1} if case.cut_off else {})
            extra = {key: found.get(key, 0) - expected.get(key, 0) for key in {*found, *expected}}
            assert all(0 <= count <= free.get(key, 0) for key, count in extra.items()), (expected, found)
            await _complete(scene)

    asyncio.run(play())


def test_too_many_calls_are_told_to_wait(bed: Federation) -> None:
    async def play() -> None:
        async with opened(bed, "flood") as scene:
            before = (await _refused(scene.stub)).get("busy", 0)
            request = DownloadRequest(digest=scene.mallory.assignment.base_digest).SerializeToString()
            answers = [await call(scene.mallory.channel, "TransferService/Download", request) for _ in range(6 * int(RATE))]
            busy = [answer for answer in answers if answer.status is not StatusCode.OK]
            assert busy, "the flood got through"
            assert {(answer.status, answer.code) for answer in busy} == {(StatusCode.RESOURCE_EXHAUSTED, "busy")}
            assert all(answer.detail and answer.detail.retry_after_s > 0 for answer in busy)
            assert (await _refused(scene.stub))["busy"] == before + sum(answer.tries for answer in busy)
            assert await eventually(lambda: ("mallory", "busy") in _lines(bed.home, 0), what="an audit line")
            await _complete(scene)

    asyncio.run(play())


def test_a_disk_that_is_nearly_full_takes_no_new_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with inprocess.server(tmp_path / "server", values=VALUES) as place, await place.device("mallory") as device:
            await device.connect()
            await wire.submit(place.stub, PLAN.format(run="full").replace("= 2\n", "= 1\n").replace("1.5", "1.0"))
            await device.task("full")
            usage = shutil.disk_usage(tmp_path)
            with monkeypatch.context() as patch:
                patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=usage.total // 100))
                answer = await device.upload(honest_update(VALUES))
            assert (answer.status, answer.code) == (StatusCode.RESOURCE_EXHAUSTED, "busy")
            assert answer.detail
            assert answer.detail.retry_after_s > 0
            assert await place.refused() == {"busy": 1}
            assert await eventually(lambda: _lines(place.home, 0)) == [("mallory", "busy")]
            assert (await device.upload(honest_update(VALUES))).status is StatusCode.OK
            assert (await wire.finished(place.stub, "full")).state == "finished"

    asyncio.run(play())


def test_a_server_that_stops_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        held, drained = asyncio.Event(), Runs.drain

        async def drain(runs: Runs) -> None:
            await held.wait()
            await drained(runs)

        monkeypatch.setattr(Runs, "drain", drain)
        async with inprocess.server(tmp_path / "server") as place, await place.device("mallory") as device:
            await device.connect()
            await place.stub.unary("Shutdown", admin_pb2.ShutdownRequest(), admin_pb2.ShutdownResponse)
            assert (await device.event()).HasField("draining")
            with pytest.raises(EOFError):
                await device.event()
            answer = await _hello(device)
            assert (answer.status, answer.code) == (StatusCode.UNAVAILABLE, "draining")
            assert answer.detail
            assert answer.detail.retry_after_s > 0
            assert await eventually(lambda: _lines(place.home, 0)) == [("mallory", "draining")]
            held.set()
            assert await place.serving == 0

    asyncio.run(play())


def test_every_token_that_does_not_open_gets_one_text_and_too_many_get_a_wait(tmp_path: Path) -> None:
    async def play() -> None:
        async with inprocess.server(tmp_path / "server") as place:
            good = await wire.bundle(place.stub, place.home, "dev")
            tokens = Tokens(place.home / "ca")
            late = tokens.mint("dev", 0.001)
            tokens.close()
            foreign = (await wire.bundle(place.stub, place.home, "other")).token
            await enrol.enrol(good, tmp_path / "dev")
            bad = [good.token, late, foreign, "made-up", ""]
            for token in bad:
                with pytest.raises(IdentityError) as refused:
                    await enrol.enrol(replace(good, token=token), tmp_path / "again")
                assert refused.value.message == REFUSED
            with pytest.raises(Busy) as busy:
                await enrol.enrol(replace(good, token=foreign), tmp_path / "again")
            assert busy.value.retry_after_s
            assert await place.refused() == {"identity": len(bad), "busy": 1}
            assert not (tmp_path / "again").exists()

    asyncio.run(play())


async def _refused(stub: Stub) -> dict[str, int]:
    return dict((await wire.status(stub)).rejections)


def _read(home: Path, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    db = sqlite3.connect(f"file:{home / 'journal.db'}?mode=ro", uri=True)
    try:
        return db.execute(query, arguments).fetchall()
    finally:
        db.close()


def _last_line(home: Path) -> int:
    return int(_read(home, "SELECT coalesce(max(seq), 0) FROM audit")[0][0])


def _lines(home: Path, after: int) -> list[tuple[str, str]]:
    query = "SELECT subject, detail ->> 'code' FROM audit WHERE event = 'refused' AND seq > ?"
    return [(subject, code) for subject, code in _read(home, query, after)]
