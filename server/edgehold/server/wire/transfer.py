"""TransferService: chunks down by digest, chunks up under a signed manifest, resumable both ways."""

import asyncio
from collections.abc import AsyncIterator

from edgehold.core.errors import IdentityError, Interrupted, PeerGone, Stale, WrongShape
from edgehold.proto.chunks import Chunk, chunk_bytes, with_data
from edgehold.proto.rpc import Caller
from edgehold.proto.strict import exactly
from edgehold.proto.v1.transfer_pb2 import (
    DownloadRequest,
    DownloadResponse,
    Receipt,
    ResumeRequest,
    ResumeResponse,
    UploadRequest,
    UploadResponse,
)
from edgehold.server.identity.roster import Member, Roster
from edgehold.server.rounds.admission import Admission, Upload
from edgehold.server.rounds.board import Board
from edgehold.server.threads import offload

PROGRESS_BYTES = 64 << 10
PROGRESS_WINDOW_S = 20.0
ROSTER_CHECK_S = 1.0
"""How soon a stream that is waiting notices that its client was shut out."""


class TransferService:
    """Bulk bytes. progress_window_s: 64 KiB must move in every such window, or the transfer ends."""

    def __init__(
        self, roster: Roster, board: Board, admission: Admission, progress_window_s: float = PROGRESS_WINDOW_S
    ) -> None:
        self._roster = roster
        self._board = board
        self._admission = admission
        self._window_s = progress_window_s

    def _member(self, caller: Caller) -> Member:
        if caller.identity is None:
            raise IdentityError("transfers need a client certificate")
        return self._roster.require(caller.identity)

    async def download(self, request: DownloadRequest, caller: Caller) -> AsyncIterator[bytes]:
        """The base model of a task the caller was given, from an offset on: serialized `DownloadResponse`s."""
        digest = exactly(request.digest, 32, "digest")
        opened = self._board.serves(caller.name, digest)
        if opened is None:
            raise Stale("no open task of yours is built on this model; drop it")
        blob = opened.base
        if request.offset > blob.size:
            raise WrongShape(f"offset {request.offset}; the model has {blob.size} bytes")
        step = chunk_bytes(blob.size)
        for start in range(request.offset, blob.size, step):
            self._member(caller)
            stop = min(start + step, blob.size)
            data = await offload(stop - start, blob.read, start, stop)
            opened.bytes_down += len(data)
            yield with_data(DownloadResponse(offset=start), data)

    async def resume(self, request: ResumeRequest, caller: Caller) -> ResumeResponse:
        """Where an interrupted upload stands."""
        found = self._admission.begin(self._member(caller), request.manifest, request.signature, caller.certificate)
        if isinstance(found, Receipt):
            return ResumeResponse(offset=request.manifest.payload_length, receipt=found)
        return ResumeResponse(offset=found.file.size)

    async def upload(self, requests: AsyncIterator[Chunk[UploadRequest]], caller: Caller) -> UploadResponse:
        """Chunks in order until the declared length is reached; then the receipt."""
        chunk = await self._next(requests, caller)
        if chunk is None:
            raise PeerGone("the stream ended before its first message", retry_after_s=0.0)
        first = chunk.head
        if not first.HasField("manifest"):
            raise WrongShape("the first message of an upload must carry its manifest and signature")
        found = self._admission.begin(self._member(caller), first.manifest, first.signature, caller.certificate)
        if isinstance(found, Receipt):
            return UploadResponse(receipt=found)
        if first.ledger_lines:
            digest = exactly(first.ledger_hash, 32, "ledger hash")
            await self._admission.remember_ledger(found.client, first.ledger_lines, digest)
        found.generation += 1
        try:
            return UploadResponse(receipt=await self._receive(found, chunk, requests, caller))
        except (Stale, Interrupted):
            # A stream before this one may have brought every byte, and its receipt came while we waited: that is the answer.
            if receipt := self._admission.receipt(found.client, first.manifest):
                return UploadResponse(receipt=receipt)
            raise

    async def _receive(
        self,
        upload: Upload,
        chunk: Chunk[UploadRequest],
        requests: AsyncIterator[Chunk[UploadRequest]],
        caller: Caller,
    ) -> Receipt:
        generation, loop = upload.generation, asyncio.get_running_loop()
        moved, window_ends = 0, loop.time() + self._window_s
        while True:
            if upload.settled or upload.generation != generation:
                raise self._admission.ended(upload)
            await self._admission.chunk(upload, chunk.head.offset, chunk.data)
            if upload.whole:
                return await self._admission.finish(upload)
            moved += len(chunk.data)
            if loop.time() > window_ends:
                if moved < PROGRESS_BYTES:
                    raise PeerGone(f"{moved} bytes in {self._window_s:g} s; at least {PROGRESS_BYTES} must move")
                moved, window_ends = 0, loop.time() + self._window_s
            following = await self._next(requests, caller)
            if following is None:
                raise PeerGone(
                    f"the stream ended after {upload.file.size} of {upload.statement.payload_length} bytes; resume there",
                    retry_after_s=0.0,
                )
            if following.head.HasField("manifest") or following.head.signature:
                raise WrongShape("only the first message of an upload carries a manifest")
            chunk = following

    async def _next(self, requests: AsyncIterator[Chunk[UploadRequest]], caller: Caller) -> Chunk[UploadRequest] | None:
        """The next message, or None at the end; who is shut out meanwhile is not waited for."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._window_s
        arriving = asyncio.ensure_future(anext(requests, None))
        try:
            while (left := ends - loop.time()) > 0:
                await asyncio.wait({arriving}, timeout=min(left, ROSTER_CHECK_S))
                self._member(caller)
                if arriving.done():
                    return arriving.result()
            raise PeerGone(f"nothing arrived for {self._window_s:g} s")
        finally:
            arriving.cancel()
