"""Bulk bytes: models in, updates out. Both go on where they stopped, as often as it takes, and say so only when it matters.

`Download` and `Upload` end with the bytes across, or with the error that makes going on pointless.
"""

import asyncio
import contextlib
import hashlib
import logging
import mmap
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgehold.client.config import TransferTable
from edgehold.client.outbox import Parcel
from edgehold.core.crashpoints import reach
from edgehold.core.errors import (
    BadSignature,
    BeyondOffset,
    Conflicting,
    Corrupted,
    FlError,
    IdentityError,
    PeerGone,
    TransferError,
    WrongShape,
)
from edgehold.core.logs import event, peer_text
from edgehold.core.manifest import PROTOCOL_VERSION, UploadStatement
from edgehold.core.privacy.ledger import Head
from edgehold.proto.channel import Stub
from edgehold.proto.chunks import chunk_bytes, with_data
from edgehold.proto.statements import manifest_of
from edgehold.proto.v1 import transfer_pb2
from edgehold.proto.v1.control_pb2 import TaskAssignment
from edgehold.proto.v1.transfer_pb2 import (
    DownloadRequest,
    DownloadResponse,
    Receipt,
    ResumeRequest,
    ResumeResponse,
    UploadRequest,
    UploadResponse,
)

T = TypeVar("T")

log = logging.getLogger("edgehold.client.transfer")

SERVICE = transfer_pb2.DESCRIPTOR.services_by_name["TransferService"]
FRESH_STARTS = 3
"""How often an upload that the server found damaged begins again from its first byte."""
REVOKED_WAIT_S = 30.0
LONGEST_WAIT_S = 3600.0
"""No wait that the other side asks for is longer."""
_LARGE_PAGES = 4 << 20


class Backoff:
    """Waits that grow from `first_s` to `last_s` with jitter, and start small again after a success."""

    def __init__(self, first_s: float = 0.2, last_s: float = 5.0) -> None:
        self._first_s, self._last_s, self._ceiling_s = first_s, last_s, first_s

    def reset(self) -> None:
        """Something worked."""
        self._ceiling_s = self._first_s

    def after(self, error: FlError | None) -> float:
        """Seconds to wait after a failure (or an end of stream: None): what the other side asked for at least, plus jitter."""
        ceiling = self._ceiling_s
        self._ceiling_s = min(2 * ceiling, self._last_s)
        jitter = random.uniform(0.5, 1.0) * ceiling
        if isinstance(error, IdentityError):
            return REVOKED_WAIT_S + jitter
        # A plain loss of the connection carries no word of the server's; those that do are its own classes.
        if error is None or error.retry_after_s is None or type(error) is TransferError:
            return jitter
        return min(max(error.retry_after_s, 0.0), LONGEST_WAIT_S) + jitter


def closing(events: AsyncIterator[T]) -> "contextlib.aclosing[AsyncGenerator[T, None]]":
    """Close a stub's stream, and with it the call, when the block is left half-way."""
    return contextlib.aclosing(cast(AsyncGenerator[T, None], events))


async def download(transfer: Callable[[], Stub], digest: bytes, length: int, table: TransferTable) -> memoryview:
    """The blob with this SHA-256, exactly `length` bytes; resumed until whole.

    transfer: the stub in force now (renewal replaces it). Raises `WrongShape` for bytes that do not fit, `Corrupted` for bytes
    that are not those of the digest, and whatever final answer the server gives.
    """
    body = _room(length)
    have, running, backoff = 0, hashlib.sha256(), Backoff()
    while have < length:
        try:
            async with asyncio.timeout(table.stall_s) as stall:
                request = DownloadRequest(digest=digest, offset=have)
                async with closing(transfer().chunks("Download", request, DownloadResponse)) as chunks:
                    async for chunk in chunks:
                        data, offset = chunk.data, chunk.head.offset
                        if offset != have or not data or have + len(data) > length:
                            raise WrongShape(f"{len(data)} bytes at {offset}; expected some at {have}, and {length} in all")
                        body[have : have + len(data)] = data
                        running.update(data)
                        have += len(data)
                        backoff.reset()
                        stall.reschedule(asyncio.get_running_loop().time() + table.stall_s)
            if have < length:
                raise PeerGone(f"the download ended after {have} of {length} bytes")
        except TimeoutError:
            await pause(backoff, PeerGone(f"nothing arrived for {table.stall_s:g} s"), "download_interrupted", offset=have)
        except (TransferError, IdentityError) as error:
            await pause(backoff, error, "download_interrupted", offset=have)
    if running.digest() != digest:
        raise Corrupted(f"{length} bytes arrived, but their SHA-256 is {running.hexdigest()}, not {digest.hex()}")
    return body.toreadonly()


def _room(length: int) -> memoryview:
    """Memory for a model, in large pages where it is large: the system would hand a hundred megabytes over in 25,000 pieces."""
    room = mmap.mmap(-1, max(length, 1))
    if length >= _LARGE_PAGES and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            room.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(room)[:length]


def statement_of(assignment: TaskAssignment, client_id: str, parcel: Parcel) -> UploadStatement:
    """What the client signs about one update."""
    return UploadStatement(
        protocol_version=PROTOCOL_VERSION,
        federation=assignment.federation,
        plan_digest=assignment.plan_digest,
        run=assignment.id.run,
        round=assignment.id.round,
        attempt=assignment.id.attempt,
        nonce=assignment.id.nonce,
        client_id=client_id,
        base_digest=assignment.base_digest,
        payload_kind=parcel.kind,
        payload_length=parcel.length,
        payload_digest=parcel.digest,
    )


class Upload:
    """One update on its way out."""

    def __init__(
        self,
        transfer: Callable[[], Stub],
        statement: UploadStatement,
        key: Ed25519PrivateKey,
        path: Path,
        table: TransferTable,
        ledger: Head | None = None,
    ) -> None:
        """transfer: the stub in force now (renewal replaces it). path: the outbox file. ledger: shown with the update."""
        self._transfer = transfer
        self._manifest = manifest_of(statement)
        self._signature = key.sign(statement.signing_input())
        self._path = path
        self._table = table
        self._shown = {"ledger_lines": ledger.lines, "ledger_hash": ledger.hash} if ledger else {}

    async def ask(self) -> ResumeResponse:
        """Where the upload stands at the server; one try."""
        request = ResumeRequest(manifest=self._manifest, signature=self._signature)
        found = await self._transfer().unary("Resume", request, ResumeResponse)
        if found.HasField("receipt"):
            self._verify(found.receipt)
        elif found.offset > self._manifest.payload_length:
            raise WrongShape(f"offset {found.offset} of an upload of {self._manifest.payload_length} bytes")
        return found

    async def run(self, *, resume: bool) -> Receipt:
        """Send until there is a receipt. resume: ask the server first, because part or all of it may be there already.

        Raises the `RejectedUpdate` or other final answer that ends the matter.
        """
        backoff, damaged, offset = Backoff(), 0, 0
        while True:
            try:
                if resume:
                    found = await self.ask()
                    if found.HasField("receipt"):
                        return found.receipt
                    offset = found.offset
                return await self._send(offset)
            except TimeoutError:
                await pause(backoff, PeerGone(f"nothing moved for {self._table.stall_s:g} s"), "upload_interrupted")
            except (Conflicting, Corrupted) as error:
                damaged += 1
                if damaged > FRESH_STARTS:
                    raise
                await pause(backoff, error, "upload_damaged", fresh_start=damaged)
                offset, resume = 0, False
                continue
            except BadSignature:
                raise
            except (TransferError, IdentityError) as error:
                await pause(backoff, error, "upload_interrupted", gap=isinstance(error, BeyondOffset))
            resume = True

    async def _send(self, offset: int) -> Receipt:
        """One stream from `offset` to the end."""
        loop = asyncio.get_running_loop()
        reach("upload_started")
        async with asyncio.timeout(self._table.stall_s) as stall:

            def moved(allow_s: float) -> None:
                # gRPC may still drain the generator after the call has ended.
                with contextlib.suppress(RuntimeError):
                    stall.reschedule(loop.time() + allow_s)

            reply = await self._transfer().collect("Upload", self._messages(offset, moved), UploadResponse)
        self._verify(reply.receipt)
        return reply.receipt

    async def _messages(self, offset: int, moved: Callable[[float], None]) -> AsyncIterator[bytes]:
        length = self._manifest.payload_length
        step = chunk_bytes(length)
        with self._path.open("rb") as file:
            file.seek(offset)
            head: dict[str, Any] = {"manifest": self._manifest, "signature": self._signature, **self._shown}
            while True:
                data = file.read(step)
                yield with_data(UploadRequest(**head, offset=offset), data)
                offset += len(data)
                if offset >= length or not data:
                    break
                if head:
                    reach("mid_upload")
                head = {}
                moved(self._table.stall_s)
        moved(self._table.receipt_s)
        reach("uploaded_no_receipt")

    def _verify(self, receipt: Receipt) -> None:
        if receipt.task != self._manifest.task or receipt.payload_digest != self._manifest.payload_digest:
            raise WrongShape("the receipt names another task or other bytes than were sent")


async def pause(backoff: Backoff, error: FlError, what: str, **fields: object) -> None:
    """Log the interruption `what` and wait as `backoff` says."""
    wait = backoff.after(error)
    event(log, logging.INFO, what, code=error.code, reason=peer_text(error.message), wait_s=round(wait, 2), **fields)
    await asyncio.sleep(wait)
