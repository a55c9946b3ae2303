"""Opening a round: the order as a base model and signed tasks, and what clients have sent already."""

import hashlib
from dataclasses import dataclass
from typing import Any

from edgehold.core.contract import Codec, Container, Needs
from edgehold.core.errors import JournalError
from edgehold.core.manifest import PROTOCOL_VERSION, TaskStatement, roster_digest
from edgehold.core.masks.sizing import Sizes
from edgehold.core.masks.upload import MaskedUploads
from edgehold.core.plan import Plan
from edgehold.core.vectors import Schema
from edgehold.proto.terms import said_of
from edgehold.proto.v1.control_pb2 import TaskAssignment
from edgehold.server.rounds.board import OpenRound
from edgehold.server.rounds.floor import Floor
from edgehold.server.rounds.masked import MaskedRound, terms_of
from edgehold.server.rounds.tally import Tally
from edgehold.server.store import masks, records
from edgehold.server.store.blobs import FileBlob
from edgehold.server.store.mail import Mail
from edgehold.server.store.records import RoundRow
from edgehold.server.store.spool import SealedFile

INLINE_LIMIT = 128 << 10
"""Base models up to this size travel inside the task itself."""


@dataclass(frozen=True)
class Opening:
    """Opens the rounds of one run."""

    floor: Floor
    plan: Plan
    schema: Schema
    codec: Codec[Any, Any]
    needs: Needs
    sizes: Sizes | None = None

    @property
    def relays(self) -> bool:
        """Whether the server keeps a round's updates for the devices of the next one."""
        return self.needs.peers and self.plan.peers.path == "relay"

    @property
    def deadline_s(self) -> float:
        """Seconds in which a round has either what it waits for or given up on it: under masks, four steps instead of one."""
        steps = 3 * self.plan.masks.step_deadline_s if self.plan.privacy.masked else 0.0
        return self.plan.cohort.round_deadline_s + steps

    def encode(self, order: Any) -> tuple[bytes, FileBlob]:
        """Header and stored body of an order."""
        payload = self.codec.encode_order(order)
        body = payload.body
        return payload.header, body if isinstance(body, FileBlob) else self.floor.store.keep(body)

    def open(self, row: RoundRow, header: bytes, base: FileBlob) -> OpenRound | None:
        """Everything clients need, and whatever they have sent already; None when the past of the round is lost."""
        floor = self.floor
        key = floor.keys.create(row.name) if row.state == "planned" else floor.keys.find(row.name)
        if key is None:
            return None
        folder = floor.spool / row.name
        folder.mkdir(mode=0o700, exist_ok=True)
        tally = Tally(frozenset(row.selection), self.plan.cohort.size, self.plan.quorum)
        mail = Mail.of(floor.journal, row.run, floor.keys, floor.spool, self.relays) if self.needs.peers else None
        opened = OpenRound(
            row.run, row.round, row.attempt, row.nonce, self.plan.digest, self.plan.run.task, base, self.schema,
            self.codec, tally, key, folder, {}, mail=mail, deadline_s=self.deadline_s,
        )  # fmt: skip
        if self.sizes is not None:
            self._mask(opened, row, self.sizes)
        inline = base.read(0, base.size) if base.size <= INLINE_LIMIT else b""
        # Once, not for every client: with the cohort they would grow with its square.
        asked, head = roster_digest(row.selection), hashlib.sha256(header).digest()
        for client in row.selection:
            opened.assignments[client] = self._assignment(opened, client, asked, header, head, inline)
        if self._readmit(opened, row):
            return opened
        opened.close()
        return None

    def _mask(self, opened: OpenRound, row: RoundRow, sizes: Sizes) -> None:
        """Updates of this round are summed under masks."""
        found = masks.find(self.floor.journal, row.key)
        if found is None:
            raise JournalError(f"run {row.run!r} round {row.round}: the journal has no draw for this masked round")
        terms = terms_of(sizes, self.floor.federation, self.plan.digest, row.key, row.nonce, opened.base.digest, found)
        opened.masks = MaskedRound(self.floor.journal, row.key, terms, found, self.floor.roots, opened.changed)
        opened.uploads = MaskedUploads(terms)

    def _readmit(self, opened: OpenRound, row: RoundRow) -> bool:
        """Take up the updates with a receipt; False when one of them is not whole any more."""
        for client, (upload, digest) in records.receipts(self.floor.journal, row.key).items():
            file = SealedFile(opened.folder / upload.hex(), opened.key, upload)
            if file.digest() != digest:
                file.close()
                return False
            opened.updates[client] = (file, opened.uploads.decode_update(Container.split(file), self.schema))
            opened.tally.admit(client)
        return True

    def _assignment(
        self, opened: OpenRound, client: str, asked: bytes, header: bytes, head: bytes, inline: bytes
    ) -> TaskAssignment:
        """asked, head: digests of cohort and header."""
        statement = TaskStatement(
            PROTOCOL_VERSION, self.floor.federation, opened.plan_digest, opened.run, opened.round, opened.attempt,
            opened.nonce, client, opened.base.digest, opened.base.size, head, asked, self.schema.digest,
            opened.task, str(self.plan.method["name"]),
            opened.masks.terms.transcript if opened.masks else b"",
        )  # fmt: skip
        lines, newest = records.ledger_head(self.floor.journal, client)
        return TaskAssignment(
            id=opened.id,
            protocol_version=statement.protocol_version,
            federation=statement.federation,
            plan_digest=statement.plan_digest,
            task=statement.task,
            method=statement.method,
            header=header,
            base_digest=statement.base_digest,
            base_length=statement.base_length,
            roster_digest=statement.roster_digest,
            deadline_s=self.plan.cohort.round_deadline_s,
            schema_digest=statement.schema_digest,
            mask=said_of(opened.masks.terms) if opened.masks else None,
            signature=self.floor.signing_key.sign(statement.signing_input()),
            inline_body=inline,
            ledger_lines=lines,
            ledger_hash=newest,
        )
