"""A server in memory, spoken to over real gRPC, and one client session against it."""

import asyncio
import contextlib
import hashlib
import itertools
import secrets
import sys
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.descriptor import ServiceDescriptor

from edgehold.client.config import ClientConfig, Home, load_config
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.client.identity import Credentials
from edgehold.client.keep import Keep
from edgehold.client.policy import PolicyFile
from edgehold.client.session import Session
from edgehold.client.worker import TrainingThread
from edgehold.core.errors import BeyondOffset, FlError, PeerGone, Stale
from edgehold.core.manifest import TaskStatement, UploadStatement
from edgehold.core.task import LocalTraining
from edgehold.core.vectors import FloatArray, Vector
from edgehold.defenses.baselines.fedavg.codec import FedAvgCodec
from edgehold.defenses.baselines.fedavg.state import Order, Training
from edgehold.proto.channel import client_options, options
from edgehold.proto.chunks import Chunk
from edgehold.proto.rpc import Caller, service
from edgehold.proto.terms import terms_of
from edgehold.proto.v1 import control_pb2, transfer_pb2
from edgehold.proto.v1.control_pb2 import (
    ConnectRequest,
    ConnectResponse,
    DeclineRequest,
    DeclineResponse,
    TaskAssignment,
    TaskCancelled,
    TaskId,
    Welcome,
)
from edgehold.proto.v1.transfer_pb2 import (
    DownloadRequest,
    DownloadResponse,
    Manifest,
    Receipt,
    ResumeRequest,
    ResumeResponse,
    UploadRequest,
    UploadResponse,
)

FEDERATION, CLIENT = "lab", "device-1"
POLICY = 'allowed_methods = ["fedavg"]\nallowed_tasks = ["toy"]\nallow_unmasked = true\n'


async def eventually(true: Callable[[], object], within_s: float = 20.0) -> None:
    """Return once `true()` holds; fail when it does not within the time."""
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.005)


class Toy:
    """The device's own code, as tests steer it: how large the model is, when training may end, how often it ran."""

    def __init__(self, values: int) -> None:
        self.values = values
        self.go = threading.Event()
        self.go.set()
        self.trained = 0
        self.starts: list[int] = []

    def make_task(self) -> "_ToyTask":
        return _ToyTask(self.values, 0.5, toy=self)

    def make_adversary(self) -> Any:
        return lambda honest, client: _Counting(honest, self)


class _ToyTask(SyntheticTask):
    def __init__(self, values: int, step: float, toy: Toy) -> None:
        super().__init__(values, step)
        object.__setattr__(self, "toy", toy)

    def train(self, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> FloatArray:
        toy: Toy = getattr(self, "toy")  # noqa: B009
        assert toy.go.wait(30)
        toy.trained += 1
        return np.add(start, np.float32(rng.random()), dtype=np.float32)


class _Counting:
    """FedAvg with local state: the number of rounds that were counted."""

    def __init__(self, honest: Any, toy: Toy) -> None:
        self.honest, self.toy = honest, toy

    def begin(self, order: Any, task: Any, rng: Any) -> int:
        return 0

    def work(self, order: Any, local: int, task: Any, rng: Any) -> Any:
        self.toy.starts.append(local)
        _, update, facts = self.honest.work(order, None, task, rng)
        return local + 1, update, facts

    def dump(self, local: int) -> bytes:
        return local.to_bytes(4, "little")

    def load(self, data: bytes) -> int:
        return int.from_bytes(data, "little")


class FakeServer:
    """Both services in memory. Knobs are plain attributes; what happened is in plain lists."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.client_key = Ed25519PrivateKey.generate().public_key()
        self.blobs: dict[bytes, bytes] = {}
        self.owed: list[TaskAssignment] = []
        self.connects: list[ConnectRequest] = []
        self.welcome = Welcome(federation=FEDERATION, protocol_version=1, boot_epoch=1)
        self.declines: list[DeclineRequest] = []
        self.partial: dict[bytes, bytearray] = {}
        self.receipts: dict[bytes, Receipt] = {}
        self.received: list[bytes] = []
        self.upload_offsets: list[int] = []
        self.upload_chunks: list[int] = []
        self.download_offsets: list[int] = []
        self.resumes = 0
        self.upload_errors: list[FlError] = []
        self.connect_errors: list[FlError] = []
        self.resume_errors: list[FlError] = []
        self.cut_upload_at: int | None = None
        self.cut_download_at: int | None = None
        self.give_receipts = asyncio.Event()
        self.give_receipts.set()
        self.chunk = 1 << 20
        self.port = 0
        self.kinds: list[str] = []
        self.more: list[tuple[ServiceDescriptor, object]] = []
        self._streams: list[asyncio.Queue[ConnectResponse | None]] = []
        self._server: grpc.aio.Server | None = None

    # A gate that admits everybody.
    def admit(self, context: Any, method: str) -> Caller:
        return Caller(None, "test", context)

    def refused(self, caller: Caller | None, method: str, error: FlError) -> None: ...

    def broken(self, error: Any) -> None: ...

    async def start(self) -> None:
        self._server = grpc.aio.server(options=options())
        for module, name in ((control_pb2, "ControlService"), (transfer_pb2, "TransferService")):
            self._server.add_generic_rpc_handlers((service(module.DESCRIPTOR.services_by_name[name], self, self),))
        for descriptor, served in self.more:
            self._server.add_generic_rpc_handlers((service(descriptor, served, self),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            for stream in self._streams:
                stream.put_nowait(None)
            await self._server.stop(0)
            self._server = None

    @property
    def connected(self) -> int:
        return len(self._streams)

    def send(self, event: ConnectResponse) -> None:
        for stream in self._streams:
            stream.put_nowait(event)

    def assign(self, assignment: TaskAssignment) -> None:
        self.send(ConnectResponse(task=assignment))

    def cancel(self, task: TaskId) -> None:
        self.send(ConnectResponse(cancelled=TaskCancelled(id=task, reason="closed")))

    def task(self, values: int, round: int = 1, attempt: int = 1, inline: bool = True, **changes: Any) -> TaskAssignment:
        """A signed assignment of a model of `values` numbers. changes: fields set before signing."""
        model = np.linspace(-1, 1, values, dtype=np.float32)
        order = FedAvgCodec().encode_order(Order(Vector.of(model), Training(), seed=7))
        body = bytes(order.body.read(0, order.body.size))
        found = TaskAssignment(
            id=TaskId(run="demo", round=round, attempt=attempt, nonce=secrets.token_bytes(32)),
            protocol_version=1,
            federation=FEDERATION,
            plan_digest=bytes(32),
            task="toy",
            method="fedavg",
            header=order.header,
            base_digest=hashlib.sha256(body).digest(),
            base_length=len(body),
            roster_digest=bytes(32),
            deadline_s=60.0,
            schema_digest=SyntheticTask(values, 0.0).schema.digest,
            inline_body=body if inline else b"",
        )
        for name, value in changes.items():
            setattr(found, name, value)
        self.blobs[found.base_digest] = body
        return self.sign(found)

    def sign(self, found: TaskAssignment) -> TaskAssignment:
        where = found.id
        statement = TaskStatement(
            found.protocol_version, found.federation, found.plan_digest, where.run, where.round, where.attempt, where.nonce,
            CLIENT, found.base_digest, found.base_length, hashlib.sha256(found.header).digest(), found.roster_digest,
            found.schema_digest, found.task, found.method,
            terms_of(found).transcript if found.HasField("mask") else b"",
        )  # fmt: skip
        found.signature = self.key.sign(statement.signing_input())
        return found

    async def connect(self, request: ConnectRequest, caller: Caller) -> AsyncIterator[ConnectResponse]:
        self.connects.append(request)
        if self.connect_errors:
            raise self.connect_errors.pop(0)
        stream: asyncio.Queue[ConnectResponse | None] = asyncio.Queue()
        self._streams.append(stream)
        try:
            yield ConnectResponse(welcome=self.welcome)
            for owed in self.owed:
                yield ConnectResponse(task=owed)
            while (event := await stream.get()) is not None:
                yield event
        finally:
            self._streams.remove(stream)

    async def decline(self, request: DeclineRequest, caller: Caller) -> DeclineResponse:
        self.declines.append(request)
        return DeclineResponse()

    async def download(self, request: DownloadRequest, caller: Caller) -> AsyncIterator[DownloadResponse]:
        blob = self.blobs[request.digest]
        self.download_offsets.append(request.offset)
        for start in range(request.offset, len(blob), self.chunk):
            if self.cut_download_at is not None and start >= self.cut_download_at:
                self.cut_download_at = None
                raise PeerGone("cut", retry_after_s=0.0)
            yield DownloadResponse(offset=start, data=blob[start : start + self.chunk])

    def _check(self, manifest: Manifest, signature: bytes) -> None:
        where = manifest.task
        statement = UploadStatement(
            manifest.protocol_version, manifest.federation, manifest.plan_digest, where.run, where.round, where.attempt,
            where.nonce, manifest.client_id, manifest.base_digest, manifest.payload_kind, manifest.payload_length,
            manifest.payload_digest,
        )  # fmt: skip
        self.client_key.verify(signature, statement.signing_input())

    async def resume(self, request: ResumeRequest, caller: Caller) -> ResumeResponse:
        self.resumes += 1
        if self.resume_errors:
            raise self.resume_errors.pop(0)
        self._check(request.manifest, request.signature)
        nonce = request.manifest.task.nonce
        if nonce in self.receipts:
            return ResumeResponse(offset=request.manifest.payload_length, receipt=self.receipts[nonce])
        return ResumeResponse(offset=len(self.partial.get(nonce, b"")))

    async def upload(self, requests: AsyncIterator[Chunk[UploadRequest]], caller: Caller) -> UploadResponse:
        manifest = None
        async for chunk in requests:
            message = chunk.head
            if manifest is None:
                manifest = message.manifest
                self.kinds.append(manifest.payload_kind)
                self._check(manifest, message.signature)
                self.upload_offsets.append(message.offset)
                if self.upload_errors:
                    raise self.upload_errors.pop(0)
            held = self.partial.setdefault(manifest.task.nonce, bytearray())
            if message.offset > len(held):
                raise BeyondOffset("gap", expected_offset=len(held))
            held[message.offset :] = chunk.data
            self.upload_chunks.append(len(chunk.data))
            if self.cut_upload_at is not None and len(held) >= self.cut_upload_at:
                self.cut_upload_at = None
                raise PeerGone("cut", retry_after_s=0.0)
        assert manifest is not None
        whole = bytes(self.partial[manifest.task.nonce])
        if len(whole) < manifest.payload_length:
            raise PeerGone("short", retry_after_s=0.0)
        assert hashlib.sha256(whole).digest() == manifest.payload_digest
        self.received.append(whole)
        self.receipts[manifest.task.nonce] = Receipt(
            task=manifest.task, payload_digest=manifest.payload_digest, sequence=len(self.receipts) + 1
        )
        await self.give_receipts.wait()
        return UploadResponse(receipt=self.receipts[manifest.task.nonce])

    def forget_uploads(self) -> None:
        """As if no byte had ever arrived."""
        self.partial.clear()
        self.receipts.clear()
        self.received.clear()


class Lab:
    """A home on disk, a fake server, and sessions started and killed at will. services: of the server, beside its own two."""

    def __init__(self, folder: Path, module: str, toy: Toy) -> None:
        self.home = Home(folder)
        self.toy = toy
        self.signing_key = Ed25519PrivateKey.generate()
        self.training = TrainingThread()
        self.home.config.write_text(
            f'[tasks.toy]\ntask = "{module}:make_task"\n[adversary]\nentry = "{module}:make_adversary"\n', encoding="utf-8"
        )
        self.home.policy.write_text(POLICY, encoding="utf-8")
        self.server: FakeServer
        self.keep: Keep
        self.services: list[tuple[ServiceDescriptor, object]] = []

    @property
    def config(self) -> ClientConfig:
        return load_config(self.home.config)

    def credentials(self) -> Credentials:
        return Credentials(
            client_id=CLIENT, federation=FEDERATION, server_address="", renew_address="", key_pem=b"", chain_pem=b"",
            roots_pem=b"", signing_key=self.signing_key, server_signing_key=self.server.key.public_key(),
            expires_s=0.0, issued_s=0.0,
        )  # fmt: skip

    def open_channel(self, credentials: Credentials) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}", options=client_options())

    def run(self, scenario: Callable[["Lab"], Awaitable[None]]) -> None:
        """Run the scenario with a started server."""

        async def main() -> None:
            self.server = FakeServer()
            self.server.more = self.services
            self.server.client_key = self.signing_key.public_key()
            await self.server.start()
            try:
                await scenario(self)
            finally:
                self.toy.go.set()
                await self.server.stop()

        asyncio.run(main())

    @contextlib.asynccontextmanager
    async def client(self, *, stays: bool = True) -> AsyncIterator[Session]:
        """A session that is connected inside the block and gone after it; a block later is a restart of the process.

        stays: False where the client hangs up by itself.
        """
        self.keep = Keep(self.home.keep)
        policy = PolicyFile(self.home.policy)
        session = Session(self.home, self.config, self.credentials(), policy, self.keep, self.training, self.open_channel)
        running = asyncio.create_task(session.run())
        try:
            await eventually(lambda: running.done() or (self.server.connected if stays else self.server.connects))
            if running.done():
                await running
            yield session
        finally:
            running.cancel()
            await asyncio.wait([running])
            self.keep.close()
        if not running.cancelled() and (error := running.exception()):
            raise error

    def states(self) -> list[str]:
        """States of all remembered tasks, oldest first."""
        keep = Keep(self.home.keep)
        with keep._db.reading() as db:
            rows = db.execute("SELECT state FROM task ORDER BY round, attempt").fetchall()
        keep.close()
        return [row[0] for row in rows]

    def outbox(self) -> list[Path]:
        return sorted(self.home.outbox.iterdir())

    def with_credentials(self, **changes: Any) -> Credentials:
        return replace(self.credentials(), **changes)


_numbers = itertools.count()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A lab whose model has 1000 values."""
    toy = Toy(1000)
    name = f"edgehold_lab_{next(_numbers)}"
    module = types.ModuleType(name)
    module.make_task = toy.make_task  # type: ignore[attr-defined]
    module.make_adversary = toy.make_adversary  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    yield Lab(tmp_path, name, toy)
    toy.go.set()


__all__ = ["FakeServer", "Lab", "Stale", "eventually"]
