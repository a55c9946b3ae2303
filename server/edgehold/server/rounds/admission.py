"""Judging uploads: the manifest before a byte is stored, the payload before the method sees it.

The first admitted upload of a client for a task wins; a resend gets the same receipt; everything else has its exact error.
"""

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edgehold.core import crashpoints
from edgehold.core.contract import HEADER_LIMIT, Container
from edgehold.core.errors import (
    REJECTIONS,
    BadSignature,
    BeyondOffset,
    Busy,
    Conflicting,
    Corrupted,
    Duplicate,
    FlError,
    IdentityError,
    Interrupted,
    OutsideLaw,
    RejectedUpdate,
    Stale,
    TooLarge,
    WrongShape,
)
from edgehold.core.manifest import PROTOCOL_VERSION, SUPPORTED_VERSIONS, UploadStatement
from edgehold.proto.statements import statement_of
from edgehold.proto.strict import CHUNK_LIMIT
from edgehold.proto.v1.mailbox_pb2 import Letterhead
from edgehold.proto.v1.transfer_pb2 import Manifest, Receipt
from edgehold.server.identity.roster import Member
from edgehold.server.rounds.board import Board, OpenRound
from edgehold.server.store import records
from edgehold.server.store.journal import Journal
from edgehold.server.store.spool import SealedFile
from edgehold.server.threads import offload, to_its_end


def _no_room(error: OSError) -> Exception:
    """What a client is told when the disk does not take its bytes; the error itself when that is no matter of the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return Busy(f"the upload could not be stored ({error.strerror}); try later", retry_after_s=60.0)
    return error


@dataclass(slots=True)
class Upload:
    """An upload under way. generation: a newer stream of the same upload takes it over from an older one.

    lock: held while a thread may be working on the file. settled: admitted or given up; nothing more is taken.
    head: what peers will read of it, where its method has them.
    """

    opened: OpenRound
    client: str
    statement: UploadStatement
    manifest: Manifest
    file: SealedFile
    head: Letterhead | None = None
    generation: int = 0
    settled: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def whole(self) -> bool:
        """Whether every declared byte is here."""
        return self.file.size == self.statement.payload_length


class Admission:
    """Decides on uploads. min_free_share: share of the disk that must stay free; max_payload: bytes per upload.

    rejected: told the code of every rejection.
    """

    def __init__(
        self,
        journal: Journal,
        board: Board,
        federation: str,
        spool: Path,
        max_payload: int,
        min_free_share: float,
        rejected: Callable[[str], object] = lambda code: None,
    ) -> None:
        self._rejected = rejected
        self._journal = journal
        self._board = board
        self._federation = federation
        self._spool = spool
        self._max_payload = max_payload
        self._min_free_share = min_free_share
        self._uploads: dict[bytes, Upload] = {}

    def begin(self, member: Member, manifest: Manifest, signature: bytes, certificate: bytes = b"") -> Upload | Receipt:
        """The upload a signed manifest announces (new or interrupted), or the receipt it already has.

        certificate: the member's, PEM; where peers read the update, they are shown it.
        """
        with self._counted():
            return self._begin(member, manifest, signature, certificate)

    def _begin(self, member: Member, manifest: Manifest, signature: bytes, certificate: bytes) -> Upload | Receipt:
        statement = self.vouch(member, manifest, signature)
        if receipt := self.receipt(member.id, manifest):
            return receipt
        opened = self._board.find(manifest.task)
        if not member.may_run(opened.task):
            raise IdentityError(f"client {member.id!r} may not take part in task {opened.task!r}")
        self._fits(opened, statement)
        key = statement.digest()
        upload = self._uploads.get(key)
        if upload is None or upload.settled:
            self._room_for(statement.payload_length)
            others = [one for one in self._uploads.values() if one.client == member.id and one.opened is not opened]
            if len(others) >= 2:
                raise Busy("two uploads of this client are under way; finish one first", retry_after_s=5.0)
            older = [one for one in self._uploads.values() if one.client == member.id and one.opened is opened]
            if any(one.lock.locked() for one in older):
                # Never two at the finish: the one refused there would take the other's place in the round with it.
                raise Busy("another update of this client is being worked on; come back for the outcome", retry_after_s=1.0)
            for one in older:
                self.discard(one)
            try:
                file = SealedFile(opened.folder / key.hex(), opened.key, key)
            except OSError as error:
                raise _no_room(error) from None
            head = None
            if opened.mail is not None:
                head = Letterhead(
                    manifest=manifest, signature=signature, signing_key=member.signing_key, certificate=certificate
                )
            upload = self._uploads[key] = Upload(opened, member.id, statement, manifest, file, head)
        return upload

    def vouch(self, member: Member, manifest: Manifest, signature: bytes) -> UploadStatement:
        """What a manifest says, once it is sure that this member says it to this federation in our protocol."""
        statement = statement_of(manifest)
        if statement.client_id != member.id:
            raise IdentityError(f"the manifest speaks for {statement.client_id!r}, the certificate for {member.id!r}")
        try:
            if not member.signing_key:
                raise InvalidSignature
            Ed25519PublicKey.from_public_bytes(member.signing_key).verify(signature, statement.signing_input())
        except InvalidSignature:
            raise BadSignature(f"the manifest is not signed by the key in the certificate of {member.id!r}") from None
        if statement.protocol_version != PROTOCOL_VERSION:
            raise Stale(
                f"protocol version {statement.protocol_version} is not spoken here", supported_versions=SUPPORTED_VERSIONS
            )
        if statement.federation != self._federation:
            raise IdentityError(f"the manifest is for federation {statement.federation!r}, this is {self._federation!r}")
        return statement

    def belongs(self, opened: OpenRound, statement: UploadStatement) -> None:
        """`Stale` unless the statement is about this round: its cohort, its plan, its base model."""
        where = f"run {opened.run!r} round {opened.round}"
        if statement.client_id not in opened.tally.selected:
            raise Stale(f"{where}: client {statement.client_id!r} was not selected")
        if statement.client_id in opened.tally.lost:
            raise Stale(f"{where}: client {statement.client_id!r} is already counted absent")
        if statement.plan_digest != opened.plan_digest:
            raise Stale(f"{where}: the manifest names another plan")
        if statement.base_digest != opened.base.digest:
            raise Stale(f"{where}: the manifest names another base model")

    def _fits(self, opened: OpenRound, statement: UploadStatement) -> None:
        self.belongs(opened, statement)
        if statement.payload_kind != opened.uploads.kind:
            raise WrongShape(f"payload kind {statement.payload_kind!r}; expected {opened.uploads.kind!r}")
        least, most = opened.uploads.body_bytes(opened.schema)
        if statement.payload_length > self._max_payload:
            raise TooLarge(f"payload of {statement.payload_length} bytes; at most {self._max_payload} are accepted")
        if not 4 + least <= statement.payload_length <= 4 + HEADER_LIMIT + most:
            raise WrongShape(
                f"payload of {statement.payload_length} bytes; expected a body of {least} to {most} bytes and its header"
            )
        if opened.masks is not None:
            opened.masks.expects(statement.client_id)

    def _room_for(self, length: int) -> None:
        usage = shutil.disk_usage(self._spool)
        if usage.free - length < self._min_free_share * usage.total:
            raise Busy(
                f"{usage.free >> 20} MiB of disk are left, {self._min_free_share:.0%} must stay free; try again later",
                retry_after_s=60.0,
            )

    async def remember_ledger(self, client: str, lines: int, digest: bytes) -> None:
        """Note, durably, how far the client's privacy ledger has come: later tasks show it again."""
        if lines >= 1 << 62:
            raise OutsideLaw(f"a privacy ledger of {lines} lines; fewer than 2^62 are believed")
        if records.ledger_head(self._journal, client)[0] < lines:
            await self._journal.write(lambda db: records.remember_ledger(db, client, lines, digest))

    def receipt(self, client: str, manifest: Manifest) -> Receipt | None:
        """The first receipt of this very upload; `Duplicate` when the task has one for other bytes."""
        task = manifest.task
        rows = self._journal.read(
            "SELECT r.seq, r.payload, r.upload FROM receipts r JOIN rounds o USING (run, round, attempt)"
            " WHERE r.run=? AND r.round=? AND r.attempt=? AND r.client=? AND o.nonce=?",
            task.run, task.round, task.attempt, client, task.nonce,
        )  # fmt: skip
        if not rows:
            return None
        sequence, payload, _ = rows[0]
        if payload != manifest.payload_digest:
            raise Duplicate(f"run {task.run!r} round {task.round} already has another update of this client; drop this one")
        return Receipt(task=task, payload_digest=payload, sequence=sequence)

    async def chunk(self, upload: Upload, offset: int, data: bytes | memoryview) -> None:
        """Take bytes at an offset; what was received before is compared, not stored again."""
        with self._counted():
            await self._chunk(upload, offset, data)

    async def _chunk(self, upload: Upload, offset: int, data: bytes | memoryview) -> None:
        if len(data) > CHUNK_LIMIT:
            raise TooLarge(f"chunk of {len(data)} bytes; at most {CHUNK_LIMIT} are accepted")
        async with self._alone(upload):
            if offset > upload.file.size:
                raise BeyondOffset(
                    f"chunk at {offset}, but {upload.file.size} bytes are here; go on from there",
                    expected_offset=upload.file.size,
                )
            if offset + len(data) > upload.statement.payload_length:
                raise WrongShape(f"bytes up to {offset + len(data)} arrived; {upload.statement.payload_length} were declared")
            known = min(len(data), upload.file.size - offset)
            try:
                if known:
                    await offload(known, upload.file.match, offset, data[:known])
                if known < len(data):
                    await offload(len(data), upload.file.append, data[known:] if known else data)
            except Conflicting:
                self.discard(upload)
                raise
            except OSError as error:
                self.discard(upload)
                raise _no_room(error) from None
        upload.opened.bytes_up += len(data)
        crashpoints.reach("chunk_stored")

    def ended(self, upload: Upload) -> FlError:
        """What to tell a stream whose upload goes on, or ended, elsewhere: to ask again, unless its round is over.

        Never `Stale` while the round is open: another stream may yet bring the same update to its receipt, and a client that
        hears `Stale` throws it away.
        """
        try:
            self._board.find(upload.manifest.task)
        except Stale as error:
            return error
        return Interrupted("this upload was taken up by another stream or discarded; ask where it stands", retry_after_s=0.0)

    @asynccontextmanager
    async def _alone(self, upload: Upload) -> AsyncIterator[None]:
        """Nobody else works on the file; if the upload is given up meanwhile, its file goes when the work is done."""
        async with upload.lock:
            if upload.settled:
                raise self.ended(upload)
            try:
                yield
            finally:
                if upload.settled and upload.client not in upload.opened.updates:
                    upload.file.discard()

    async def finish(self, upload: Upload) -> Receipt:
        """Admit a whole upload: digest, law, receipt. A refused one counts its client absent from the round.

        Begun is done, even when the client hangs up meanwhile: a receipt that the round does not hear of would stall it.
        """
        return await to_its_end(self._finish(upload))

    async def _finish(self, upload: Upload) -> Receipt:
        with self._counted():
            return await self._admit(upload)

    async def _admit(self, upload: Upload) -> Receipt:
        crashpoints.reach("upload_whole")
        opened = upload.opened
        async with self._alone(upload):
            try:
                update = await offload(upload.file.size, self._judge, upload)
            except RejectedUpdate:
                self.discard(upload)
                opened.rejected.add(upload.client)
                opened.tally.lose(upload.client)
                opened.wake()
                raise
            except Corrupted:
                self.discard(upload)
                raise
            # In place before the receipt is durable: whoever freezes the round after it finds the update.
            opened.updates[upload.client] = (upload.file, update)
            try:
                sequence = await self._journal.write(lambda db: self._record(db, upload))
            except FlError:
                del opened.updates[upload.client]
                self.discard(upload)
                raise
            upload.settled = True
            self._uploads.pop(upload.statement.digest(), None)
        crashpoints.reach("receipt_journaled")
        opened.tally.admit(upload.client)
        opened.wake()
        return Receipt(task=upload.manifest.task, payload_digest=upload.statement.payload_digest, sequence=sequence)

    def _judge(self, upload: Upload) -> Any:
        upload.file.verify(upload.statement.payload_digest)
        return upload.opened.uploads.decode_update(Container.split(upload.file), upload.opened.schema)

    def _record(self, db: Any, upload: Upload) -> int:
        said, key = upload.statement, upload.statement.digest()
        where = (said.run, said.round, said.attempt)
        row = db.execute("SELECT state FROM rounds WHERE run=? AND round=? AND attempt=?", where).fetchone()
        first = db.execute(
            "SELECT seq, payload FROM receipts WHERE run=? AND round=? AND attempt=? AND client=?", (*where, said.client_id)
        ).fetchone()
        if first:
            if first[1] != said.payload_digest:
                raise Duplicate(f"run {said.run!r} round {said.round} already has another update of this client")
            return int(first[0])
        if row is None or row[0] != "open":
            raise Stale(f"run {said.run!r} round {said.round} closed while the upload came in; drop this task")
        cursor = db.execute(
            "INSERT INTO receipts (run, round, attempt, client, upload, payload, length) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*where, said.client_id, key, said.payload_digest, said.payload_length),
        )
        if upload.head is not None:
            records.write_letter(db, where, said.client_id, upload.head.SerializeToString())
        db.execute("UPDATE clients SET admitted = admitted + 1 WHERE id=?", (said.client_id,))
        return int(cursor.lastrowid)

    @property
    def under_way(self) -> int:
        """Uploads that have begun and are neither admitted nor given up."""
        return len(self._uploads)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except REJECTIONS as error:
            self._rejected(error.code)
            raise

    def discard(self, upload: Upload) -> None:
        """Forget an upload and its bytes; a file that a thread still works on goes when the thread is done."""
        upload.settled = True
        self._uploads.pop(upload.statement.digest(), None)
        if not upload.lock.locked():
            upload.file.discard()

    def forget(self, opened: OpenRound) -> None:
        """A round is over: let go of the uploads that never finished."""
        for upload in [one for one in self._uploads.values() if one.opened is opened]:
            self.discard(upload)
