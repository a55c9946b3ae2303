"""One run, round after round: journal first, effect second, and after a restart on from where the journal stands."""

import asyncio
import contextlib
import hashlib
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgehold.core import crashpoints
from edgehold.core.contract import Codec, Cohort, Container, Facts, Needs, ServerSide, Weighted
from edgehold.core.errors import FlError
from edgehold.core.manifest import PROTOCOL_VERSION, TaskStatement, roster_digest
from edgehold.core.plan import Plan
from edgehold.core.streams import select, selection_stream
from edgehold.core.vectors import Schema, Vector
from edgehold.core.weights import capped
from edgehold.proto.v1.control_pb2 import ConnectResponse, TaskAssignment, TaskCancelled
from edgehold.server import records
from edgehold.server.admission import Admission
from edgehold.server.blobs import BlobStore, FileBlob
from edgehold.server.board import Board, OpenRound
from edgehold.server.evaluation import Evaluation
from edgehold.server.journal import Journal
from edgehold.server.mail import Mail
from edgehold.server.metrics import Metrics
from edgehold.server.records import RoundRow
from edgehold.server.roster import Roster
from edgehold.server.rounds import Tally, Verdict, wanted
from edgehold.server.sessions import Sessions
from edgehold.server.spool import RoundKeys, SealedFile

log = logging.getLogger("edgehold.server.runs")

INLINE_LIMIT = 128 << 10
"""Base models up to this size travel inside the task itself."""

SETTLE_S = 0.5
"""With enough clients for the cohort at hand, wait this long for the rest before drawing."""


@dataclass(slots=True)
class Floor:
    """What every run of a server shares."""

    federation: str
    signing_key: Ed25519PrivateKey
    journal: Journal
    roster: Roster
    sessions: Sessions
    board: Board
    admission: Admission
    keys: RoundKeys
    store: BlobStore
    spool: Path
    evaluation: Evaluation
    metrics: Metrics
    keep_models: int


class RunFailed(FlError):
    """A run cannot go on; the message says why."""

    code = "run_failed"
    status = "FAILED_PRECONDITION"


@dataclass
class Driver:
    """Drives one run. tell: called with every round worth showing."""

    floor: Floor
    run: str
    plan: Plan
    schema: Schema
    initial: FileBlob
    codec: Codec[Any, Any]
    side: ServerSide[Any, Any, Any]
    needs: Needs
    tell: Callable[[RoundRow], None]
    _state: Any = None
    _base: FileBlob | None = None
    _opened: OpenRound | None = None
    _scoring: asyncio.Task[None] | None = None
    _sweeping: asyncio.Task[None] | None = None
    _gone: dict[str, float] = field(default_factory=dict)
    _arrivals: asyncio.Event = field(default_factory=asyncio.Event)

    async def drive(self) -> None:
        """Play every round that is not committed yet."""
        newest = records.last_committed(self.floor.journal, self.run)
        if newest and newest.packed:
            self._take(self.side.unpack(records.unpack(newest.packed, self.floor.store)))
        else:
            self._take(self.side.start(Vector(self.initial)))
        for number in range(newest.round + 1 if newest else 1, self.plan.run.rounds + 1):
            await self._play(number)
        for late in (self._scoring, self._sweeping):
            if late:
                await late

    def _take(self, state: Any) -> None:
        blob = self.side.pack(state).blobs["model"]
        assert isinstance(blob, FileBlob), "the model was not written through the given space"
        self._state, self._base = state, blob

    @property
    def base(self) -> FileBlob:
        """The model the next round starts from."""
        assert self._base is not None
        return self._base

    async def give_up(self, why: str) -> None:
        """After `drive` was cancelled for good: end the attempt under way, so that clients drop it and a later one is fresh."""
        row = records.latest(self.floor.journal, self.run)
        if row is not None and row.state in ("planned", "open", "closing"):
            await self._abandon(row, self._opened, why)

    def client_moved(self, client: str, connected: bool) -> None:
        """A client came or went."""
        if connected:
            self._gone.pop(client, None)
            self._arrivals.set()
        else:
            self._gone[client] = time.monotonic()

    # ---- one round

    async def _play(self, number: int) -> None:
        refused: set[str] = set()
        for _ in range(self.plan.cohort.max_attempts):
            row = records.latest(self.floor.journal, self.run)
            if row is None or row.round < number or row.state == "abandoned":
                attempt = row.attempt + 1 if row and row.round == number else 1
                row = await self._plan_round(number, attempt, refused)
                if row is None:
                    continue
            opened = self._open(row)
            if opened is None:
                await self._abandon(row, None, "its round key or an admitted upload is gone (power loss)")
                continue
            self._opened = opened
            if await self._collect_and_close(row, opened):
                return
            refused |= opened.tally.lost
        raise RunFailed(
            f"round {number} did not reach its quorum of {self.plan.quorum} in {self.plan.cohort.max_attempts} attempts; "
            f"connected now: {len(self.floor.sessions.connected)}. Bring clients back, then `fl-server resume {self.run}`"
        )

    def _eligible(self) -> list[str]:
        return [one.id for one in self.floor.roster if one.state == "active" and one.may_run(self.plan.run.task)]

    def _available(self, without: set[str]) -> list[str]:
        connected = self.floor.sessions.connected
        return [c for c in self._eligible() if c in connected and c not in without and not self.floor.board.owed_by(c)]

    async def _gather(self, refused: set[str]) -> list[str]:
        """Clients to draw from: enough for the over-selected cohort, or everybody there is, or who came in time."""
        loop, cohort = asyncio.get_running_loop(), self.plan.cohort
        many = wanted(cohort.size, cohort.over_select)
        deadline = loop.time() + cohort.join_deadline_s
        settled: float | None = None
        while True:
            available = self._available(refused)
            now = loop.time()
            everybody = len(available) >= len([c for c in self._eligible() if c not in refused])
            if len(available) >= many or (everybody and len(available) >= self.plan.quorum) or now >= deadline:
                return available
            if len(available) >= cohort.size:
                settled = settled or now + SETTLE_S
                if now >= settled:
                    return available
            self._arrivals.clear()
            until = min(deadline, settled or deadline)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrivals.wait(), min(until - now, 1.0))

    async def _plan_round(self, number: int, attempt: int, refused: set[str]) -> RoundRow | None:
        available = await self._gather(refused)
        if len(available) < self.plan.quorum:
            log.warning("run %s round %d: %d of %d clients came", self.run, number, len(available), self.plan.quorum)
            refused.clear()
            return None
        many = wanted(self.plan.cohort.size, self.plan.cohort.over_select)
        chosen = select(available, many, selection_stream(self.plan.run.seed, self.run, number, attempt))
        key, nonce = (self.run, number, attempt), secrets.token_bytes(32)
        await self.floor.journal.write(lambda db: records.plan_round(db, key, nonce, chosen, self.base.digest))
        crashpoints.reach("planned")
        return RoundRow(*key, "planned", nonce, chosen, self.base.digest, None, None, None, {})

    def _open(self, row: RoundRow) -> OpenRound | None:
        """Everything clients need, and whatever they have sent already; None when the past of the round is lost."""
        key = self.floor.keys.create(row.name) if row.state == "planned" else self.floor.keys.find(row.name)
        if key is None:
            return None
        folder = self.floor.spool / row.name
        folder.mkdir(mode=0o700, exist_ok=True)
        order = self.side.open(self._state, Cohort(row.round, row.selection))
        payload = self.codec.encode_order(order)
        tally = Tally(frozenset(row.selection), self.plan.cohort.size, self.plan.quorum)
        opened = OpenRound(
            row.run, row.round, row.attempt, row.nonce, self.plan.digest, self.plan.run.task, self.base, self.schema,
            self.codec, tally, key, folder, {}, mail=Mail(folder, key) if self.needs.peers else None,
        )  # fmt: skip
        inline = bytes(payload.body.read(0, payload.body.size)) if payload.body.size <= INLINE_LIMIT else b""
        for client in row.selection:
            opened.assignments[client] = self._assignment(opened, client, row.selection, payload.header, inline)
        if self._readmit(opened, row):
            return opened
        opened.close()
        return None

    def _readmit(self, opened: OpenRound, row: RoundRow) -> bool:
        for client, (upload, digest) in records.receipts(self.floor.journal, row.key).items():
            file = SealedFile(opened.folder / upload.hex(), opened.key, upload)
            if file.digest() != digest:
                file.close()
                return False
            opened.updates[client] = (file, self.codec.decode_update(Container.split(file), self.schema))
            opened.tally.admit(client)
        return True

    def _assignment(
        self, opened: OpenRound, client: str, cohort: Sequence[str], header: bytes, inline: bytes
    ) -> TaskAssignment:
        statement = TaskStatement(
            PROTOCOL_VERSION, self.floor.federation, opened.plan_digest, opened.run, opened.round, opened.attempt,
            opened.nonce, client, opened.base.digest, opened.base.size, hashlib.sha256(header).digest(),
            roster_digest(cohort), self.schema.digest, opened.task, str(self.plan.method["name"]),
            int(self.plan.privacy.masked),
        )  # fmt: skip
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
            masked=self.plan.privacy.masked,
            signature=self.floor.signing_key.sign(statement.signing_input()),
            inline_body=inline,
        )

    async def _collect_and_close(self, row: RoundRow, opened: OpenRound) -> bool:
        """Play an opened round to its commit; False when it had to be abandoned."""
        started, floor = time.monotonic(), self.floor
        survivors = row.survivors
        try:
            if survivors is None:
                if row.state == "planned":
                    await floor.journal.write(lambda db: records.move_round(db, row.key, "open"))
                crashpoints.reach("roster_closed")
                floor.board.post(opened)
                for client in sorted(opened.tally.pending):
                    if floor.sessions.send(client, ConnectResponse(task=opened.assignments[client])):
                        opened.bytes_down += len(opened.assignments[client].inline_body)
                if await self._collect(opened) is Verdict.ABANDON:
                    await self._abandon(row, opened, "quorum out of reach")
                    return False
                floor.board.take_down(opened)
                survivors = await floor.journal.write(lambda db: records.freeze_round(db, row.key))
                crashpoints.reach("frozen")
                self._dismiss(opened, survivors, "the round has closed")
            if len(survivors) < self.plan.quorum:
                await self._abandon(row, opened, "clients were shut out while the round closed")
                return False
            await self._close(row, opened, survivors, started)
            return True
        finally:
            floor.board.take_down(opened)
            floor.admission.forget(opened)
            opened.close()

    async def _collect(self, opened: OpenRound) -> Verdict:
        loop, cohort = asyncio.get_running_loop(), self.plan.cohort
        deadline = loop.time() + cohort.round_deadline_s
        while True:
            opened.changed.clear()
            now = time.monotonic()
            for client in opened.tally.pending.difference(self.floor.sessions.connected):
                # Asked before a restart and not seen since: absent from now on.
                self._gone.setdefault(client, now)
            for client, since in self._gone.items():
                if now - since >= cohort.join_deadline_s:
                    opened.tally.lose(client)
            for client in opened.tally.selected.difference(self._eligible()):
                opened.tally.drop(client)
            verdict = opened.tally.decide(loop.time() >= deadline)
            if verdict is not Verdict.WAIT:
                return verdict
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(opened.changed.wait(), min(1.0, max(0.0, deadline - loop.time())))

    async def _close(self, row: RoundRow, opened: OpenRound, survivors: Sequence[str], started: float) -> None:
        floor, before = self.floor, time.monotonic()
        state, facts = await asyncio.to_thread(self._fold, opened, survivors)
        crashpoints.reach("summed")
        facts |= {
            "aggregate_seconds": time.monotonic() - before,
            "round_seconds": time.monotonic() - started,
            "clients_selected": float(len(row.selection)),
            "clients_admitted": float(len(survivors)),
            "clients_declined": float(len(opened.tally.lost - opened.rejected)),
            "clients_rejected": float(len(opened.rejected)),
            "bytes_up": float(opened.bytes_up),
            "bytes_down": float(opened.bytes_down),
        }
        packed = records.pack(self.side.pack(state))
        self._take(state)
        crashpoints.reach("stored")

        def commit(db: Any) -> None:
            records.commit_round(db, row.key, self.base.digest, packed, facts)
            floor.journal.append_audit(
                db, "round_committed", self.run, round=row.round, attempt=row.attempt, model=self.base.digest.hex(),
                survivors=list(survivors),
            )  # fmt: skip

        await floor.journal.write(commit)
        crashpoints.reach("commit_journaled")
        await self._sweep(row, opened)
        done = RoundRow(
            *row.key, "committed", row.nonce, row.selection, row.base, tuple(survivors), self.base.digest, packed, facts
        )
        floor.metrics.round_committed(facts)
        self.tell(done)
        crashpoints.reach("published")
        await self._score(done)
        self._prune(row.round)

    def _fold(self, opened: OpenRound, survivors: Sequence[str]) -> tuple[Any, Facts]:
        updates = [opened.updates[client][1] for client in survivors]
        weights = capped([self.side.claim(update) for update in updates], self.plan.weights.by, self.plan.weights.cap)
        weighted = [Weighted(c, w, u) for c, w, u in zip(survivors, weights, updates, strict=True)]
        return self.side.close(self._state, weighted, self.floor.store)

    async def _abandon(self, row: RoundRow, opened: OpenRound | None, why: str) -> None:
        log.warning("run %s round %d attempt %d abandoned: %s", self.run, row.round, row.attempt, why)

        def change(db: Any) -> None:
            records.move_round(db, row.key, "abandoned")
            self.floor.journal.append_audit(db, "round_abandoned", self.run, round=row.round, attempt=row.attempt, why=why)

        await self.floor.journal.write(change)
        if opened:
            self.floor.board.take_down(opened)
            self._dismiss(opened, (), "the attempt was abandoned")
        await self._sweep(row, opened)
        self.floor.metrics.rounds_abandoned.inc()
        self.tell(RoundRow(*row.key, "abandoned", row.nonce, row.selection, row.base, None, None, None, {}))

    def _dismiss(self, opened: OpenRound, survivors: Sequence[str], reason: str) -> None:
        for client in opened.tally.selected - set(survivors):
            self.floor.sessions.send(client, ConnectResponse(cancelled=TaskCancelled(id=opened.id, reason=reason)))

    async def _sweep(self, row: RoundRow, opened: OpenRound | None) -> None:
        """Destroy the key first: from then on the spooled updates are noise. Deleting them takes the time of the next round."""
        self.floor.keys.destroy(row.name)
        if opened:
            opened.close()
        if self._sweeping:
            await self._sweeping
        folder = self.floor.spool / row.name
        self._sweeping = asyncio.create_task(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))

    def _prune(self, newest: int) -> None:
        """Let go of the model that just grew too old, unless the same bytes are still wanted: by this run or by another."""
        old = newest - self.floor.keep_models
        if old < 1:
            return
        rows = records.committed(self.floor.journal, self.run, old)
        aged = records.blob_digests(rows[0].packed or "") - records.pinned(self.floor.journal, self.floor.keep_models)
        self.floor.store.drop(aged)

    async def _score(self, row: RoundRow) -> None:
        """Score in the background, at most one round behind."""
        every = self.plan.evaluation.every
        last = row.round == self.plan.run.rounds
        if not every or not self.floor.evaluation.knows(self.plan.run.task) or (row.round % every and not last):
            return
        if self._scoring:
            await self._scoring
        self._scoring = asyncio.create_task(self._score_now(row, self.base))

    async def _score_now(self, row: RoundRow, model: FileBlob) -> None:
        try:
            facts = await self.floor.evaluation.score(self.plan.run.task, model)
        except FlError as error:
            log.warning("run %s round %d could not be scored: %s", self.run, row.round, error.message)
            return
        await self.floor.journal.write(lambda db: records.add_facts(db, row.key, facts))
        row.facts.update(facts)
        self.tell(row)
