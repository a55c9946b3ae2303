"""Clients driven by hand: real certificates, real mutual TLS, and every byte of every message chosen by the test."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from edgehold.client import enrol, identity
from edgehold.client.identity import Credentials
from edgehold.core import keys
from edgehold.core.contract import Container
from edgehold.core.identity import Role
from edgehold.core.manifest import PROTOCOL_VERSION, UploadStatement
from edgehold.core.vectors import Array, Vector
from edgehold.defenses.baselines.fedavg.codec import FedAvgCodec
from edgehold.defenses.baselines.fedavg.state import Update
from edgehold.proto.channel import Stub, client_options
from edgehold.proto.statements import manifest_of
from edgehold.proto.status import DETAIL_KEY
from edgehold.proto.v1 import admin_pb2, control_pb2, enrolment_pb2, mailbox_pb2, masks_pb2, peers_pb2, transfer_pb2
from edgehold.proto.v1.control_pb2 import ConnectRequest, ConnectResponse, ErrorDetail, TaskAssignment, TaskId
from edgehold.proto.v1.transfer_pb2 import Manifest, Receipt, ResumeRequest, ResumeResponse, UploadRequest, UploadResponse
from edgehold.server.desk.operator import socket_address
from edgehold.server.identity.ca import CertificateAuthority
from edgehold.server.identity.tokens import Tokens

WAIT_S = 20.0

UNBOUND = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    # Once, and then the error: a handshake that fails must not be tried until the test times out.
    ("grpc.enable_retries", 0),
]
"""Channel arguments of somebody who keeps none of our limits."""

METHODS = {
    f"{service.name}/{method.name}": f"/{service.full_name}/{method.name}"
    for file in (admin_pb2, control_pb2, enrolment_pb2, mailbox_pb2, masks_pb2, peers_pb2, transfer_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Short name of a method -> its path."""


@dataclass(frozen=True)
class Answer:
    """How a call ended. detail: our own word on it, None where gRPC answered by itself."""

    status: grpc.StatusCode
    text: str
    detail: ErrorDetail | None
    replies: tuple[bytes, ...]
    tries: int = 1

    @property
    def code(self) -> str | None:
        """Error code of a refusal of ours."""
        return self.detail.code if self.detail else None

    @property
    def receipt(self) -> Receipt:
        """The receipt in the only reply of an upload."""
        (reply,) = self.replies
        return UploadResponse.FromString(reply).receipt


async def call(
    channel: grpc.aio.Channel,
    method: str,
    *messages: bytes,
    source: AsyncIterator[bytes] | None = None,
    metadata: Sequence[tuple[str, str]] = (),
    compression: grpc.Compression | None = None,
) -> Answer:
    """Call any method with any bytes; on the wire a unary call is a stream of one message.

    method: a key of METHODS or a whole path. source: messages that take their time, instead of `messages`. The answer's
    `tries` says how often the call was made, and so how often the server answered it.
    """

    tries = 0
    while True:
        tries += 1
        answer = await _once(channel, method, messages, source, metadata, compression)
        # A server that refuses before it has read is free to; but where the refusal meets a message still being written,
        # grpc.aio throws the answer away and reports a failure of its own. Such a call was answered: it is made again.
        if source is not None or (answer.status, answer.text) != LOST or tries == 5:
            return replace(answer, tries=tries)


LOST = (grpc.StatusCode.INTERNAL, "Internal error from Core")


async def _once(
    channel: grpc.aio.Channel,
    method: str,
    messages: Sequence[bytes],
    source: AsyncIterator[bytes] | None,
    metadata: Sequence[tuple[str, str]],
    compression: grpc.Compression | None,
) -> Answer:
    async def listed() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    replies: list[bytes] = []
    invoke: Any = channel.stream_stream(METHODS.get(method, method))
    begun = invoke(source or listed(), timeout=WAIT_S, metadata=tuple(metadata), compression=compression)
    try:
        async for reply in begun:
            replies.append(reply)
    except grpc.aio.AioRpcError as error:
        found = [value for key, value in error.trailing_metadata() or () if key == DETAIL_KEY]
        detail = ErrorDetail.FromString(found[0]) if found else None  # type: ignore[arg-type]
        return Answer(error.code(), error.details() or "", detail, tuple(replies))
    return Answer(grpc.StatusCode.OK, "", None, tuple(replies))


def dial(address: str, credentials: Credentials) -> grpc.aio.Channel:
    """A mutual TLS channel without limits."""
    tls = grpc.ssl_channel_credentials(credentials.roots_pem, credentials.key_pem, credentials.chain_pem)
    return grpc.aio.secure_channel(address, tls, options=UNBOUND)


def update(values: Array, samples: int = 1) -> bytes:
    """A FedAvg update as it travels."""
    payload = FedAvgCodec().encode_update(Update(Vector.of(values.astype("<f4")), samples))
    return Container.prefix(payload) + bytes(payload.body.read(0, payload.body.size))


def honest_update(size: int, value: float = 2**-10) -> bytes:
    """An update that no rule objects to."""
    return update(np.full(size, value, "<f4"))


class Device:
    """One client, by hand."""

    def __init__(self, credentials: Credentials, address: str | None = None) -> None:
        self.credentials = credentials
        self.name = credentials.client_id
        self.channel = dial(address or credentials.server_address, credentials)
        self.assignment = TaskAssignment()
        self._stream: Any = None

    async def __aenter__(self) -> "Device":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    def hello(self, **changes: Any) -> bytes:
        """The first message on the control stream, as it should be but for `changes`."""
        said: dict[str, Any] = {
            "protocol_version": PROTOCOL_VERSION,
            "client_id": self.name,
            "signing_key": keys.public_bytes(self.credentials.signing_key),
            "software": "by hand",
        }
        return ConnectRequest(**(said | changes)).SerializeToString()

    async def connect(self) -> None:
        """Open the control stream and read the welcome."""
        invoke: Any = self.channel.unary_stream(METHODS["ControlService/Connect"])
        self._stream = invoke(self.hello())
        assert (await self.event()).HasField("welcome")

    async def event(self) -> ConnectResponse:
        """The next event; `EOFError` at the end of the stream, `AioRpcError` when it is refused."""
        data = await asyncio.wait_for(self._stream.read(), WAIT_S)
        if not isinstance(data, bytes):
            await self._stream.code()
            raise EOFError(f"{self.name}: end of stream")
        return ConnectResponse.FromString(data)

    async def task(self, run: str, round: int = 1) -> TaskAssignment:
        """The task of a round of a run."""
        while True:
            event = await self.event()
            if event.HasField("task") and (event.task.id.run, event.task.id.round) == (run, round):
                self.assignment = event.task
                return event.task

    def manifest(self, payload: bytes, **changes: Any) -> Manifest:
        """The manifest of a payload, as it should be but for `changes` (fields of the statement)."""
        task = self.assignment
        statement = UploadStatement(
            PROTOCOL_VERSION, task.federation, task.plan_digest, task.id.run, task.id.round, task.id.attempt, task.id.nonce,
            self.name, task.base_digest, "fedavg/1", len(payload), hashlib.sha256(payload).digest(),
        )  # fmt: skip
        return manifest_of(statement._replace(**changes))

    def sign(self, manifest: Manifest, key: Ed25519PrivateKey | None = None) -> bytes:
        """Signature over exactly what a manifest says."""
        task = manifest.task
        statement = UploadStatement(
            manifest.protocol_version, manifest.federation, manifest.plan_digest, task.run, task.round, task.attempt,
            task.nonce, manifest.client_id, manifest.base_digest, manifest.payload_kind, manifest.payload_length,
            manifest.payload_digest,
        )  # fmt: skip
        return (key or self.credentials.signing_key).sign(statement.signing_input())

    def first(self, payload: bytes, data: bytes | None = None, offset: int = 0, **changes: Any) -> bytes:
        """First message of an upload. data: what it carries, None for the whole payload."""
        manifest = self.manifest(payload, **changes)
        data = payload if data is None else data
        return UploadRequest(manifest=manifest, signature=self.sign(manifest), offset=offset, data=data).SerializeToString()

    async def upload(self, payload: bytes, **changes: Any) -> Answer:
        """A whole upload in one message."""
        return await call(self.channel, "TransferService/Upload", self.first(payload, **changes))

    async def resume(self, payload: bytes) -> ResumeResponse:
        """Where an upload stands."""
        manifest = self.manifest(payload)
        request = ResumeRequest(manifest=manifest, signature=self.sign(manifest))
        answer = await call(self.channel, "TransferService/Resume", request.SerializeToString())
        assert answer.status is grpc.StatusCode.OK, answer
        return ResumeResponse.FromString(answer.replies[0])


def more(offset: int, data: bytes) -> bytes:
    """A later message of an upload."""
    return UploadRequest(offset=offset, data=data).SerializeToString()


def with_task(manifest: Manifest, **changes: Any) -> Manifest:
    """A manifest for another task."""
    task = TaskId()
    task.CopyFrom(manifest.task)
    for field, value in changes.items():
        setattr(task, field, value)
    other = Manifest()
    other.CopyFrom(manifest)
    other.task.CopyFrom(task)
    return other


@asynccontextmanager
async def operator(home: Path) -> AsyncIterator[Stub]:
    """AdminService of the server at home, over its local socket."""
    async with grpc.aio.insecure_channel(socket_address(home), options=client_options()) as channel:
        yield Stub(channel, admin_pb2.DESCRIPTOR.services_by_name["AdminService"])


async def status(stub: Stub) -> admin_pb2.GetStatusResponse:
    """The server at a glance."""
    return await stub.unary("GetStatus", admin_pb2.GetStatusRequest(), admin_pb2.GetStatusResponse)


async def set_state(stub: Stub, client: str, state: str) -> None:
    """Suspend, revoke, reactivate."""
    request = admin_pb2.SetClientStateRequest(client_id=client, state=state)
    await stub.unary("SetClientState", request, admin_pb2.SetClientStateResponse)


async def submit(stub: Stub, plan: str) -> str:
    """Submit a plan; returns the run."""
    request = admin_pb2.SubmitRunRequest(plan_toml=plan)
    return (await stub.unary("SubmitRun", request, admin_pb2.SubmitRunResponse, None)).run


async def finished(stub: Stub, run: str) -> admin_pb2.RunInfo:
    """The run once it is over."""
    async with asyncio.timeout(WAIT_S):
        request = admin_pb2.WatchRunRequest(run=run, from_round=1)
        async for _ in stub.stream("WatchRun", request, admin_pb2.WatchRunResponse):
            pass
    return next(info for info in (await status(stub)).runs if info.run == run)


async def bundle(stub: Stub, home: Path, client: str, tasks: Sequence[str] = ()) -> keys.Bundle:
    """Put a client on the roster and mint its token."""
    addresses = await status(stub)
    request = admin_pb2.AddClientRequest(client_id=client, allowed_plans=tasks)
    await stub.unary("AddClient", request, admin_pb2.AddClientResponse)
    authority, tokens = CertificateAuthority(home / "ca"), Tokens(home / "ca")
    try:
        token = tokens.mint(client)
    finally:
        tokens.close()
    root = authority.current().public_bytes(Encoding.DER)
    return keys.Bundle(
        authority.federation, client, token, addresses.enrol, addresses.renew, addresses.listen,
        keys.fingerprint(root).hex(), root,
    )  # fmt: skip


async def enrolled(stub: Stub, home: Path, client: str, folder: Path, tasks: Sequence[str] = ()) -> Credentials:
    """A client enrolled over the wire."""
    return await enrol.enrol(await bundle(stub, home, client, tasks), folder)


def issued(
    home: Path, like: Credentials, role: Role = "client", name: str | None = None, at_s: float = 0.0, life_s: float = 3600.0
) -> Credentials:
    """A certificate straight from the authority of the server at home, with the keys of another.

    at_s: seconds from now at which it is issued.
    """
    import time

    authority = CertificateAuthority(home / "ca", lambda: time.time() + at_s)
    key = keys.tls_key(like.key_pem, "test")
    fingerprint = keys.fingerprint(keys.public_bytes(like.signing_key))
    chain = authority.issue(role, name or like.client_id, key.public_key(), fingerprint, life_s=life_s)
    return replace(like, client_id=name or like.client_id, chain_pem=chain.public_bytes(Encoding.PEM))


def load(home: Path) -> Credentials:
    """A device's identity as it lies on disk. home: of the device."""
    return identity.load(home / "identity")
