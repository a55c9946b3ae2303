"""Rounds over a transport that drops, repeats, reorders and hangs up, against the real transfer service and journal.

Nobody is counted twice, nobody who holds a receipt is left out, and nobody who was told no is counted. EDGEHOLD_SIM_SEEDS
sets how many rounds are played (nightly: 10,000).
"""

import asyncio
import hashlib
import os
import random
import shutil
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgehold.core.contract import Container
from edgehold.core.errors import Busy, Conflicting, Corrupted, Duplicate, FlError, RejectedUpdate, Stale, WrongShape
from edgehold.core.identity import Identity
from edgehold.core.manifest import PROTOCOL_VERSION, UploadStatement
from edgehold.core.vectors import Schema, Tensor, Vector
from edgehold.defenses.baselines.fedavg.codec import FedAvgCodec
from edgehold.defenses.baselines.fedavg.state import Update
from edgehold.proto.chunks import Chunk, split
from edgehold.proto.rpc import Caller
from edgehold.proto.statements import manifest_of
from edgehold.proto.strict import CHUNK_MESSAGE_LIMIT
from edgehold.proto.v1.transfer_pb2 import Receipt, ResumeRequest, UploadRequest
from edgehold.server import threads
from edgehold.server.identity.roster import Roster
from edgehold.server.rounds.admission import Admission
from edgehold.server.rounds.board import Board, OpenRound
from edgehold.server.rounds.tally import Tally, Verdict
from edgehold.server.store import records
from edgehold.server.store.blobs import BlobStore, FileBlob
from edgehold.server.store.journal import Journal
from edgehold.server.wire.transfer import TransferService

SEEDS = int(os.environ.get("EDGEHOLD_SIM_SEEDS", "2000"))
AT_ONCE = 200
SCHEMA = Schema((Tensor("values", (8,)),))
CODEC = FedAvgCodec()
PLAN = bytes(range(32))


def payload(values: "np.ndarray[Any, np.dtype[np.float32]]") -> bytes:
    found = CODEC.encode_update(Update(Vector.of(values), 1))
    return Container.prefix(found) + bytes(found.body.read(0, found.body.size))


class World:
    """One server's transfer side, and the keys of its clients: a few for each of the rounds that are open at once."""

    def __init__(self, folder: Path, slots: int = 1) -> None:
        self.folder = folder
        self.journal = Journal(folder)
        self.board = Board()
        self.roster = Roster(self.journal)
        self.admission = Admission(self.journal, self.board, "lab", folder, 1 << 20, 0.0)
        self.service = TransferService(self.roster, self.board, self.admission)
        self.base: FileBlob = BlobStore(folder / "blobs").put(np.zeros(8, "<f4"))
        self.keys = {name: Ed25519PrivateKey.generate() for slot in range(slots) for name in self.names(slot)}
        self.callers: dict[str, Caller] = {}

    @staticmethod
    def names(slot: int) -> list[str]:
        return [f"{letter}{slot}" for letter in "abcd"]

    async def enrol(self) -> None:
        await asyncio.gather(*(self._enrol(name, key) for name, key in self.keys.items()))

    async def _enrol(self, name: str, key: Ed25519PrivateKey) -> None:
        public = key.public_key().public_bytes_raw()
        identity = Identity("lab", "client", name, hashlib.sha256(public).digest(), 0.0, 1e12)
        await self.roster.add(name, ())
        await self.roster.introduce(identity, public)
        self.callers[name] = Caller(identity, "here", None)  # type: ignore[arg-type]


@dataclass
class Sender:
    """A client that sends one update until it is told how the matter ends, or loses patience."""

    world: World
    opened: OpenRound
    name: str
    data: bytes
    rng: random.Random
    receipts: list[Receipt] = field(default_factory=list)
    refusal: RejectedUpdate | None = None
    refused: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        opened = self.opened
        statement = UploadStatement(
            PROTOCOL_VERSION, "lab", PLAN, opened.run, opened.round, opened.attempt, opened.nonce, self.name,
            opened.base.digest, CODEC.kind, len(self.data), hashlib.sha256(self.data).digest(),
        )  # fmt: skip
        self.manifest = manifest_of(statement)
        self.signature = self.world.keys[self.name].sign(statement.signing_input())

    async def send(self) -> None:
        """Try after try, some of them while the one before is still under way at the server."""
        left: list[asyncio.Task[Receipt | int]] = []
        offset, ask = 0, self.rng.random() < 0.5
        for _ in range(self.rng.randint(1, 14)):
            work = asyncio.create_task(self._ask() if ask else self._stream(offset))
            fate = self.rng.random()
            if fate < 0.15:  # the connection dies, and the server notices
                for _ in range(self.rng.randint(0, 12)):
                    await asyncio.sleep(0)
                work.cancel()
            elif fate < 0.3:  # it dies, and the server does not notice
                left.append(work)
                await asyncio.sleep(0)
                offset, ask = 0, True
                continue
            await settled(work)
            if fate >= 0.9:  # the answer is lost on its way
                ask = True
                continue
            offset, ask = self._heard(work)
            if self.receipts and self.rng.random() < 0.7 or self.refusal:
                break
        await settled(*left)

    def _heard(self, work: "asyncio.Task[Receipt | int]") -> tuple[int, bool]:
        """Where to go on from, and whether to ask first."""
        error = asyncio.CancelledError() if work.cancelled() else work.exception()
        if error is None:
            found = work.result()
            if isinstance(found, Receipt):
                self.receipts.append(found)
                return 0, self.rng.random() < 0.5
            return found, False
        if isinstance(error, FlError):
            self.refused.add(error.code)
        if isinstance(error, Stale | Duplicate):
            self.refusal = error
        elif isinstance(error, Conflicting | Corrupted):
            return 0, False
        elif not isinstance(error, FlError | asyncio.CancelledError):
            raise error
        return 0, self.rng.random() < 0.8

    async def _ask(self) -> Receipt | int:
        request = ResumeRequest(manifest=self.manifest, signature=self.signature)
        reply = await self.world.service.resume(request, self.world.callers[self.name])
        return reply.receipt if reply.HasField("receipt") else int(reply.offset)

    async def _stream(self, offset: int) -> Receipt:
        reply = await self.world.service.upload(self._messages(offset), self.world.callers[self.name])
        return reply.receipt

    async def _messages(self, offset: int) -> AsyncIterator[Chunk[UploadRequest]]:
        rng, data = self.rng, self.data
        cuts = sorted({offset, *(rng.randint(offset, len(data)) for _ in range(rng.randint(0, 4))), len(data)})
        chunks = [(a, data[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)] or [(offset, b"")]
        if rng.random() < 0.1:  # damaged on the way
            at = rng.randrange(len(chunks))
            start, piece = chunks[at]
            chunks[at] = (start, piece[:-1] + bytes([piece[-1] ^ 1]) if piece else b"")
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            at = rng.randrange(len(chunks) + 1)
            what = rng.choice(("drop", "repeat", "swap", "end"))
            if what == "repeat" and chunks:
                chunks.insert(at, rng.choice(chunks))
            elif what == "swap":
                rng.shuffle(chunks)
            elif what == "drop":
                del chunks[at : at + 1]
            else:
                del chunks[at:]
        head: dict[str, Any] = {"manifest": self.manifest, "signature": self.signature}
        for start, piece in chunks:
            for _ in range(rng.choice((0, 0, 1, 5))):
                await asyncio.sleep(0)
            message = UploadRequest(**head, offset=start, data=piece)
            yield arrived(message)
            head = {}


async def settled(*work: "asyncio.Task[Receipt | int]") -> None:
    """Wait for all of it, whatever comes of it."""
    await asyncio.gather(*work, return_exceptions=True)


async def play(world: World, seed: int, seen: dict[str, int]) -> None:
    """One round from its opening to its freeze, and what must hold of it."""
    rng, run, names = random.Random(seed), f"sim-{seed}", world.names(seed % AT_ONCE)
    selected = tuple(sorted(rng.sample(names, rng.randint(1, 4))))
    tally = Tally(frozenset(selected), len(selected), rng.randint(1, len(selected)))
    key, nonce, folder = (run, 1, 1), rng.randbytes(32), world.folder / run
    folder.mkdir()

    def open_round(db: Any) -> None:
        records.plan_round(db, key, nonce, selected, world.base.digest)
        records.move_round(db, key, "open")

    await world.journal.write(open_round)
    opened = OpenRound(run, 1, 1, nonce, PLAN, "t", world.base, SCHEMA, CODEC, tally, rng.randbytes(32), folder, {})
    world.board.post(opened)
    senders = []
    for name in names:  # whoever was not asked tries as well; some say two different things
        for _ in range(rng.choice((1, 1, 1, 2))):
            values = np.array([rng.randint(-999, 999) for _ in range(8)], "<f4")
            senders.append(Sender(world, opened, name, payload(values), random.Random(rng.random())))
    work = [asyncio.create_task(sender.send()) for sender in senders]
    now, deadline = 0, rng.randint(5, 2000)  # the fake clock counts turns of the loop
    while (verdict := tally.decide(now >= deadline)) is Verdict.WAIT:
        now = deadline if all(one.done() for one in work) else now + 1
        await asyncio.sleep(0)
    if rng.random() < 0.5:
        world.board.take_down(opened)
    survivors: tuple[str, ...] = ()
    if verdict is Verdict.CLOSE:
        survivors = await world.journal.write(lambda db: records.freeze_round(db, key))
        assert len(survivors) >= tally.quorum
    else:
        await world.journal.write(lambda db: records.move_round(db, key, "abandoned"))
    world.board.take_down(opened)
    frozen = {name: opened.updates[name][1].delta.whole().tolist() for name in survivors}
    await asyncio.gather(*work)

    # What the journal holds is what was frozen: nobody twice, nobody afterwards.
    rows = world.journal.read("SELECT client, payload, seq FROM receipts WHERE run=?", run)
    held = {client: (digest, sequence) for client, digest, sequence in rows}
    assert len(rows) == len(held), "somebody was counted twice"
    assert held.keys() <= set(selected)
    if verdict is Verdict.CLOSE:
        assert survivors == tuple(sorted(held))
    for sender in senders:
        digest = sender.manifest.payload_digest
        counted = sender.name in held and held[sender.name][0] == digest
        for receipt in sender.receipts:
            assert counted, "a receipt without a line in the journal"
            assert (receipt.task, receipt.payload_digest, receipt.sequence) == (opened.id, digest, held[sender.name][1])
        if sender.refusal is not None:
            assert not counted, f"{sender.name} was told {sender.refusal.code} and is counted"
        if counted and sender.name in frozen:
            assert frozen[sender.name] == np.frombuffer(sender.data[-32:], "<f4").tolist()
        for code in sender.refused:
            seen[code] = seen.get(code, 0) + 1
    seen[verdict] = seen.get(verdict, 0) + 1
    seen["admitted"] = seen.get("admitted", 0) + len(survivors)
    world.admission.forget(opened)
    opened.close()
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_update_is_counted_twice_and_no_receipt_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Threads as for large uploads: more ways for two streams to meet.
    monkeypatch.setattr(threads, "INLINE_BYTES", 24)
    world, seen = World(tmp_path, AT_ONCE), dict[str, int]()

    async def main() -> None:
        await world.enrol()
        for first in range(0, SEEDS, AT_ONCE):
            await asyncio.gather(*(play(world, seed, seen) for seed in range(first, min(first + AT_ONCE, SEEDS))))

    asyncio.run(main())
    assert not world.admission._uploads
    world.journal.close()
    # The dice must have shown every kind of trouble, or nothing was tested.
    expected = {"close", "abandon", "stale", "duplicate", "beyond_offset", "conflicting", "corrupted", "peer_gone"}
    assert expected <= seen.keys(), seen
    assert seen["admitted"] > SEEDS


def sender(world: World, opened: OpenRound, name: str = "a0") -> Sender:
    return Sender(world, opened, name, payload(np.arange(8, dtype="<f4")), random.Random(0))


async def opening(world: World) -> OpenRound:
    await world.enrol()
    key = ("r", 1, 1)

    def change(db: Any) -> None:
        records.plan_round(db, key, PLAN, ("a0", "b0"), world.base.digest)
        records.move_round(db, key, "open")

    await world.journal.write(change)
    tally = Tally(frozenset(("a0", "b0")), 2, 2)
    opened = OpenRound("r", 1, 1, PLAN, PLAN, "t", world.base, SCHEMA, CODEC, tally, bytes(32), world.folder, {})
    world.board.post(opened)
    return opened


async def busy(world: World) -> tuple["asyncio.Task[None]", threading.Event]:
    """Keep the journal's writer busy until the event is set."""
    entered, go = threading.Event(), threading.Event()

    def wait(db: Any) -> None:
        entered.set()
        assert go.wait(20)

    held = asyncio.create_task(world.journal.write(wait))
    assert await asyncio.to_thread(entered.wait, 20)
    return held, go


def test_a_client_that_hangs_up_over_its_receipt_is_admitted_all_the_same(tmp_path: Path) -> None:
    """Its receipt is durable, so the round must know of it: it would wait for the client until its deadline."""
    world = World(tmp_path)

    async def main() -> None:
        opened = await opening(world)
        one = sender(world, opened)
        upload = world.admission.begin(world.roster.get("a0"), one.manifest, one.signature)
        assert not isinstance(upload, Receipt)
        await world.admission.chunk(upload, 0, one.data)
        held, go = await busy(world)
        finishing = asyncio.create_task(world.admission.finish(upload))
        while "a0" not in opened.updates:
            await asyncio.sleep(0)
        finishing.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await finishing
        await held
        assert opened.tally.admitted == {"a0"}
        assert await one._ask() == Receipt(task=opened.id, payload_digest=one.manifest.payload_digest, sequence=1)
        opened.close()

    asyncio.run(main())
    world.journal.close()


def test_a_second_stream_that_waits_for_the_first_gets_its_receipt(tmp_path: Path) -> None:
    """The first lost its connection after the last byte; told that its update is stale, the client would throw it away."""
    world = World(tmp_path)

    async def main() -> None:
        opened = await opening(world)
        one = sender(world, opened)
        whole = UploadRequest(manifest=one.manifest, signature=one.signature, data=one.data)
        rest = UploadRequest(manifest=one.manifest, signature=one.signature, offset=len(one.data))
        held, go = await busy(world)
        first = asyncio.create_task(world.service.upload(aiter_of(whole), world.callers["a0"]))
        while "a0" not in opened.updates:
            await asyncio.sleep(0)
        assert await one._ask() == len(one.data)
        second = asyncio.create_task(world.service.upload(aiter_of(rest), world.callers["a0"]))
        (upload,) = world.admission._uploads.values()
        while not upload.lock._waiters:
            await asyncio.sleep(0)
        go.set()
        assert await second == await first
        await held
        with pytest.raises(WrongShape, match="manifest"):
            await world.service.upload(aiter_of(UploadRequest(offset=0, data=b"x")), world.callers["a0"])
        opened.close()

    asyncio.run(main())
    world.journal.close()


def test_a_second_update_cannot_push_out_the_one_that_is_being_recorded(tmp_path: Path) -> None:
    """Else the refusal of the second would leave the first with a receipt and no bytes, and the round could not close."""
    world = World(tmp_path)

    async def main() -> None:
        opened = await opening(world)
        one, other = sender(world, opened), Sender(world, opened, "a0", payload(np.ones(8, "<f4")), random.Random(0))
        upload = world.admission.begin(world.roster.get("a0"), one.manifest, one.signature)
        assert not isinstance(upload, Receipt)
        await world.admission.chunk(upload, 0, one.data)
        held, go = await busy(world)
        finishing = asyncio.create_task(world.admission.finish(upload))
        while "a0" not in opened.updates:
            await asyncio.sleep(0)
        with pytest.raises(Busy):
            world.admission.begin(world.roster.get("a0"), other.manifest, other.signature)
        go.set()
        await asyncio.gather(held, finishing)
        with pytest.raises(Duplicate):
            world.admission.begin(world.roster.get("a0"), other.manifest, other.signature)
        assert opened.updates["a0"][1].delta.whole().tolist() == list(range(8))
        opened.close()

    asyncio.run(main())
    world.journal.close()


async def aiter_of(*messages: UploadRequest) -> AsyncIterator[Chunk[UploadRequest]]:
    for message in messages:
        yield arrived(message)


def arrived(message: UploadRequest) -> Chunk[UploadRequest]:
    """The message as a handler is given it."""
    return split(UploadRequest, message.SerializeToString(), CHUNK_MESSAGE_LIMIT)
