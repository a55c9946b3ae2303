"""One run, round after round: journal first, effect second, and after a restart on from where the journal stands."""

import asyncio
import contextlib
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from edgehold.core import crashpoints
from edgehold.core.contract import Cohort, Container, Facts, Packed, Payload, PrivateServerSide, ServerSide, Weighted
from edgehold.core.errors import FlError
from edgehold.core.logs import event
from edgehold.core.plan import Plan
from edgehold.core.vectors import Vector
from edgehold.core.weights import capped
from edgehold.defenses import registry
from edgehold.proto.v1.control_pb2 import ConnectResponse, TaskCancelled
from edgehold.server.rounds.board import OpenRound
from edgehold.server.rounds.floor import Floor
from edgehold.server.rounds.gathering import Gathering
from edgehold.server.rounds.masked import Outcome, drawn
from edgehold.server.rounds.opening import Opening
from edgehold.server.rounds.scoring import Scoring
from edgehold.server.rounds.summing import Summing
from edgehold.server.rounds.tally import Verdict, wanted
from edgehold.server.store import masks, records
from edgehold.server.store.blobs import FileBlob, file_blob
from edgehold.server.store.records import RoundRow
from edgehold.server.store.transcript import Transcript

log = logging.getLogger("edgehold.server.rounds.runs")


class RunFailed(FlError):
    """A run cannot go on; the message says why."""

    code = "run_failed"
    status = "FAILED_PRECONDITION"


class Driver:
    """Drives one run. tell: called with every round worth showing. round: the one it is at, 0 before the first."""

    def __init__(
        self,
        floor: Floor,
        run: str,
        plan: Plan,
        initial: FileBlob,
        side: ServerSide[Any, Any, Any],
        opening: Opening,
        tell: Callable[[RoundRow], None],
    ) -> None:
        self.floor = floor
        self.run = run
        self.plan = plan
        self.side = side
        self.gathering = Gathering(floor, plan)
        self._opening = opening
        self._tell = tell
        self._state: Any = None
        self._initial = initial
        self._opened: OpenRound | None = None
        self.round = 0
        self._scoring = Scoring(floor, plan, tell)
        self._summing = Summing(floor, plan, opening.schema, self.gathering)
        self._sweeping: asyncio.Task[None] | None = None

    async def drive(self) -> None:
        """Play every round that is not committed yet."""
        newest = records.last_committed(self.floor.journal, self.run)
        if newest and newest.packed:
            self._state = self.side.unpack(records.unpack(newest.packed, self.floor.store))
        else:
            self._state = self.side.start(Vector(self._initial))
        for number in range(newest.round + 1 if newest else 1, self.plan.run.rounds + 1):
            await self._play(number)
        await self._scoring.finish()
        if self._sweeping:
            await self._sweeping

    async def give_up(self, why: str) -> None:
        """After `drive` was cancelled for good: end the attempt under way, so that clients drop it and a later one is fresh."""
        row = records.latest(self.floor.journal, self.run)
        if row is None or row.state not in ("planned", "open", "closing"):
            return
        if not self._asked(row):
            await self._abandon(row, self._opened, why)
        elif self._state is not None:
            await self._void(row, self._opened, why)
        # Else it was stopped before it had begun: the round stays as it is.

    def _asked(self, row: RoundRow) -> bool:
        """Whether devices may have revealed: their updates of this round cannot be summed a second time."""
        return self.plan.privacy.masked and row.state == "closing"

    async def _void(self, row: RoundRow, opened: OpenRound | None, why: str) -> None:
        """End a masked round that cannot be summed any more, nor be tried again: with the model that it began with."""
        log.warning("run %s round %d attempt %d is void: %s", self.run, row.round, row.attempt, why)
        await self._commit(row, opened, (), self._state, self._counted(row, opened, (), time.monotonic()))

    # ---- one round

    async def _play(self, number: int) -> None:
        self.round = number
        refused: set[str] = set()
        reasons = ""
        for _ in range(self.plan.cohort.max_attempts):
            row = records.latest(self.floor.journal, self.run)
            if row is None or row.round < number or row.state == "abandoned":
                attempt = row.attempt + 1 if row and row.round == number else 1
                event(log, logging.INFO, "round_begun", run=self.run, round=number, attempt=attempt)
                row = await self._plan_round(number, attempt, refused)
                if row is None:
                    continue
            opened = self._opening.open(row, *self._order(number, row.selection))
            if opened is None:
                why = "its round key or an admitted upload is gone (power loss)"
                if self._asked(row):
                    await self._void(row, None, why)
                    return
                await self._abandon(row, None, why)
                continue
            self._opened = opened
            if await self._collect_and_close(row, opened):
                return
            refused |= opened.tally.lost
            reasons = opened.tally.told()
        raise RunFailed(
            f"round {number} did not reach its quorum of {self.plan.quorum} in {self.plan.cohort.max_attempts} attempts; "
            f"connected now: {len(self.floor.sessions.connected)}{f' ({reasons})' if reasons else ''}. "
            f"Bring clients back, then `fl-server resume {self.run}`"
        )

    async def _plan_round(self, number: int, attempt: int, refused: set[str]) -> RoundRow | None:
        """Draw the cohort and fix it in the journal; None when too few clients came."""
        available = await self.gathering.wait(refused)
        if len(available) < self.plan.quorum:
            log.warning("run %s round %d: %d of %d clients came", self.run, number, len(available), self.plan.quorum)
            refused.clear()
            return None
        from edgehold.core.streams import select, selection_stream  # brings NumPy's generators: not before the first round

        many = wanted(self.plan.cohort.size, self.plan.cohort.over_select)
        chosen = select(available, many, selection_stream(self.plan.run.seed, self.run, number, attempt))
        key, nonce = (self.run, number, attempt), secrets.token_bytes(32)
        _, base = self._order(number, chosen)
        value, company = drawn(chosen, masks.suspicion(self.floor.journal, self.run))

        def plan(db: Any) -> None:
            records.plan_round(db, key, nonce, chosen, base.digest)
            if self.plan.privacy.masked:
                masks.plan(db, key, value, company)

        await self.floor.journal.write(plan)
        crashpoints.reach("planned")
        return RoundRow(*key, "planned", nonce, chosen, base.digest, None, None, None, {})

    def _order(self, number: int, chosen: tuple[str, ...]) -> tuple[bytes, FileBlob]:
        return self._opening.encode(self.side.open(self._state, Cohort(number, chosen)))

    async def _collect_and_close(self, row: RoundRow, opened: OpenRound) -> bool:
        """Play an opened round to its commit; False when it had to be abandoned."""
        started, floor = time.monotonic(), self.floor
        survivors = row.survivors
        floor.board.begin(opened)
        if opened.masks is not None:
            floor.board.unmask(opened)
        try:
            if survivors is None:
                if row.state == "planned":
                    await floor.journal.write(lambda db: records.move_round(db, row.key, "open"))
                crashpoints.reach("roster_closed")
                floor.board.post(opened)
                for client in sorted(opened.tally.pending):
                    if floor.sessions.send(client, ConnectResponse(task=opened.assignments[client])):
                        opened.bytes_down += len(opened.assignments[client].inline_body)
                verdict = await (self._summing.gather(opened) if opened.masks else self._collect(opened))
                if verdict is Verdict.ABANDON:
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
            floor.metrics.moved(opened.bytes_up, opened.bytes_down)
            floor.board.forget(opened)
            floor.admission.forget(opened)
            if opened.masks is not None:
                opened.masks.leave()
            opened.close()

    async def _collect(self, opened: OpenRound) -> Verdict:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.plan.cohort.round_deadline_s
        while True:
            opened.changed.clear()
            self.gathering.settle(opened.tally)
            verdict = opened.tally.decide(loop.time() >= deadline)
            if verdict is not Verdict.WAIT:
                return verdict
            with contextlib.suppress(TimeoutError):
                # Not wait_for: that loses a cancellation which arrives together with the event (until Python 3.12).
                async with asyncio.timeout(min(1.0, max(0.0, deadline - loop.time()))):
                    await opened.changed.wait()

    async def _close(self, row: RoundRow, opened: OpenRound, survivors: Sequence[str], started: float) -> None:
        floor, before = self.floor, time.monotonic()
        method = registry.method(str(self.plan.method["name"]))
        if method.central:
            released = cast(PrivateServerSide[Any, Any, Any], self.side).charges(self._state)
            await asyncio.to_thread(floor.accounts.charge, method, self.plan.run.task, row, survivors, released)
            crashpoints.reach("round_charged")
        if row.round in floor.record.get(self.run, ()):
            await asyncio.to_thread(self._record, row, opened, survivors)
            await floor.journal.write(lambda db: floor.journal.append_audit(db, "round_recorded", self.run, round=row.round))
        outcome: Outcome | None = None
        if opened.masks is not None:
            outcome = await self._summing.unmask(opened, survivors)
            state, facts = await asyncio.to_thread(self._summing.fold, self.side, self._state, opened, outcome)
            facts |= opened.masks.facts(len(row.selection), outcome)
            survivors = outcome.survivors
        else:
            state, facts = await asyncio.to_thread(self._fold, opened, survivors)
        crashpoints.reach("summed")
        facts |= {"aggregate_seconds": time.monotonic() - before} | self._counted(row, opened, survivors, started)
        await self._commit(row, opened, survivors, state, facts, outcome)

    def _counted(self, row: RoundRow, opened: OpenRound | None, survivors: Sequence[str], started: float) -> Facts:
        counts = {
            "round_seconds": time.monotonic() - started,
            "clients_selected": float(len(row.selection)),
            "clients_admitted": float(len(survivors)),
        }
        if opened is None:
            return counts
        return counts | {
            "clients_declined": float(len(opened.tally.lost - opened.rejected)),
            "clients_rejected": float(len(opened.rejected)),
            "bytes_up": float(opened.bytes_up),
            "bytes_down": float(opened.bytes_down),
        }

    async def _commit(
        self, row: RoundRow, opened: OpenRound | None, survivors: Sequence[str], state: Any, facts: Facts,
        outcome: Outcome | None = None,
    ) -> None:  # fmt: skip
        """The round ends with this state. opened: None where it could not be opened again; outcome: of a masked sum."""
        floor, packed = self.floor, self._at_rest(self.side.pack(state))
        model, text = file_blob(packed.blobs["model"]), records.pack(packed)
        crashpoints.reach("stored")

        last = row.round == self.plan.run.rounds
        relayed = self._opening.relays and not last
        suspects = masks.suspicion(floor.journal, self.run)

        def commit(db: Any) -> bool:
            if not records.commit_round(db, row.key, model.digest, text, facts):
                return False
            records.settle_letters(db, row.key, survivors, last, relayed)
            masks.forget(db, row.key)
            if outcome is not None:
                masks.suspect(db, self.run, outcome.learned(suspects))
                if outcome.suspects or outcome.void or outcome.lost:
                    floor.journal.append_audit(
                        db, "masked_groups_failed", self.run, round=row.round, attempt=row.attempt,
                        void=[list(group) for group in outcome.void], lost=[list(group) for group in outcome.lost],
                        suspects=list(outcome.suspects),
                    )  # fmt: skip
            floor.journal.append_audit(
                db, "round_committed", self.run, round=row.round, attempt=row.attempt, model=model.digest.hex(),
                survivors=list(survivors),
            )  # fmt: skip
            return True

        if not await floor.journal.write(commit):
            # The run was stopped when its commit was already on the way: that one stands.
            await self._sweep(row.name, opened)
            return
        crashpoints.reach("commit_journaled")
        self._state = state
        if opened is not None and opened.masks is not None:
            opened.masks.commit()
        if relayed and opened is not None:
            # The next round's devices read what is sealed here; what the round before left has served its time.
            await self._sweep(opened.mail.over if opened.mail else "", opened)
            kept = {letter.upload.hex() for letter in records.letters(floor.journal, self.run)}
            await asyncio.to_thread(_leave_only, kept, opened.folder)
        else:
            await self._sweep(row.name, opened)
            if opened and opened.mail and opened.mail.over:
                await self._sweep(opened.mail.over, None)
        done = RoundRow(*row.key, "committed", row.nonce, row.selection, row.base, tuple(survivors), model.digest, text, facts)
        floor.metrics.round_committed(facts)
        self._tell(done)
        crashpoints.reach("published")
        await self._scoring.begin(done, lambda: file_blob(self.side.weights(state, floor.store).blob))
        self._prune(row)

    def _fold(self, opened: OpenRound, survivors: Sequence[str]) -> tuple[Any, Facts]:
        updates = [opened.updates[client][1] for client in survivors]
        weights = capped([self.side.claim(update) for update in updates], self.plan.weights.by, self.plan.weights.cap)
        weighted = [Weighted(c, w, u) for c, w, u in zip(survivors, weights, updates, strict=True)]
        from edgehold.defenses.baselines.rules.cluster import on_cluster  # brings every rule: not before there is a round

        with on_cluster(self.floor.ray):
            return self.side.close(self._state, weighted, self.floor.store)

    def _at_rest(self, packed: Packed) -> Packed:
        """All of it in the store: a state that no round has written yet may stand in memory."""
        store = self.floor.store
        blobs = {name: one if isinstance(one, FileBlob) else store.keep(one) for name, one in packed.blobs.items()}
        return Packed(blobs, packed.scalars)

    def _record(self, row: RoundRow, opened: OpenRound, survivors: Sequence[str]) -> None:
        """Keep what the operator's configuration asks for: the order and the updates that count, as they came."""
        transcript = Transcript(self.floor.transcripts / f"{self.run}.sqlite", self.plan, opened.schema)
        try:
            header = next(iter(opened.assignments.values())).header
            sent = {client: Container.split(opened.updates[client][0]) for client in survivors}
            transcript.keep(row.round, row.attempt, Payload(header, opened.base), sent)
        finally:
            transcript.close()

    async def _abandon(self, row: RoundRow, opened: OpenRound | None, why: str) -> None:
        def change(db: Any) -> bool:
            if not records.abandon_round(db, row.key):
                return False
            records.forget_letters(db, row.key)
            masks.forget(db, row.key)
            self.floor.journal.append_audit(db, "round_abandoned", self.run, round=row.round, attempt=row.attempt, why=why)
            return True

        if not await self.floor.journal.write(change):
            # Its commit was already on the way when the run was stopped: it is over, one way or the other.
            live = records.live_rounds(self.floor.journal)
            for name in (row.name, opened.mail.over if opened and opened.mail else ""):
                if name not in live:
                    await self._sweep(name, opened)
            return
        log.warning("run %s round %d attempt %d abandoned: %s", self.run, row.round, row.attempt, why)
        if opened:
            self.floor.board.forget(opened)
            if opened.masks is not None:
                opened.masks.end("the attempt was abandoned")
            self._dismiss(opened, (), "the attempt was abandoned")
        await self._sweep(row.name, opened)
        self.floor.metrics.rounds_abandoned.inc()
        self._tell(RoundRow(*row.key, "abandoned", row.nonce, row.selection, row.base, None, None, None, {}))

    def _dismiss(self, opened: OpenRound, survivors: Sequence[str], reason: str) -> None:
        for client in opened.tally.selected - set(survivors):
            self.floor.sessions.send(client, ConnectResponse(cancelled=TaskCancelled(id=opened.id, reason=reason)))

    async def _sweep(self, name: str, opened: OpenRound | None) -> None:
        """Let go of a round. Its key goes first: from then on the spooled updates are noise. Deleting them takes the time of
        the next round. name: of the round, "" for none; opened: the one that is over now.
        """
        if opened:
            opened.close()
        if not name:
            return
        self.floor.keys.destroy(name)
        if self._sweeping:
            await self._sweeping
        folder = self.floor.spool / name
        self._sweeping = asyncio.create_task(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))

    def _prune(self, row: RoundRow) -> None:
        """Let go of what just grew too old, unless the same bytes are still wanted: by this run or by another."""
        aged, old = {row.base}, row.round - self.floor.keep_models
        if old >= 1:
            aged |= records.blob_digests(records.committed(self.floor.journal, self.run, old)[0].packed or "")
        self.floor.store.drop(aged - records.pinned(self.floor.journal, self.floor.keep_models))


def _leave_only(names: set[str], folder: Path) -> None:
    """Delete every other file: what came too late for a round is nobody's letter."""
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink(missing_ok=True)
