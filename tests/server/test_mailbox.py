"""Letters on the server: the uploads of the last committed round, the same for every reader, kept over a restart."""

import asyncio
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgehold.core.errors import FlError, NotFound, OutsideLaw, Stale, WrongShape
from edgehold.core.identity import Identity
from edgehold.core.manifest import UploadStatement
from edgehold.core.vectors import Schema, Tensor
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.state import Settings
from edgehold.proto.rpc import Caller
from edgehold.proto.statements import manifest_of, statement_of
from edgehold.proto.v1.control_pb2 import TaskId
from edgehold.proto.v1.mailbox_pb2 import FetchRequest, FetchResponse, FindRequest, FindResponse, Letterhead
from edgehold.server.identity.roster import Roster
from edgehold.server.rounds.board import Board, OpenRound
from edgehold.server.rounds.sessions import Sessions
from edgehold.server.rounds.tally import Tally
from edgehold.server.store import records
from edgehold.server.store.blobs import BlobStore
from edgehold.server.store.journal import Journal
from edgehold.server.store.mail import Mail
from edgehold.server.store.spool import RoundKeys, SealedFile
from edgehold.server.wire.mailbox import MailboxService

PEERS = ("a", "b", "c")
LETTERS = {"a": b"a secret between peers", "b": bytes(range(256)) * 2048, "c": b"from c"}
CHUNK = len(LETTERS["b"]) // 2
"""Letter b travels in two."""
ROUND = ("run", 1, 1)


@dataclass
class Room:
    """Round 2 of a run, whose round 1 is committed with a letter of each peer. d is on the roster but was not selected."""

    folder: Path
    keys: dict[str, Ed25519PrivateKey] = field(default_factory=dict)

    async def open(self, relayed: bool = True) -> None:
        self.journal = Journal(self.folder)
        self.roster, self.sessions = Roster(self.journal), Sessions()
        for name in (*PEERS, "d"):
            await self.roster.add(name, ())
            self.keys[name] = Ed25519PrivateKey.generate()
            await self.roster.introduce(self.identity(name), self.keys[name].public_key().public_bytes_raw())
        self.round_keys, self.spool = RoundKeys(self.folder / "keys"), self.folder / "spool"
        folder = self.spool / records.name_of(ROUND)
        folder.mkdir(parents=True)
        key = self.round_keys.create(folder.name)
        await self.journal.write(lambda db: records.plan_round(db, ROUND, bytes(32), PEERS, bytes(32)))
        for sender, data in LETTERS.items():
            head = self.head(sender, data)
            upload = statement_of(head.manifest).digest()
            SealedFile(folder / upload.hex(), key, upload).append(data)
            await self.journal.write(lambda db, s=sender, d=data, h=head, u=upload: self.receipt(db, s, d, h, u))  # type: ignore[misc]
        await self.journal.write(lambda db: records.move_round(db, ROUND, "closing"))
        await self.journal.write(lambda db: records.commit_round(db, ROUND, bytes(32), "", {}))
        await self.journal.write(lambda db: records.settle_letters(db, ROUND, PEERS, False, relayed))
        base = BlobStore(self.folder / "blobs").put(np.zeros(4, "<f4"))
        codec = registry.codec("fedavg", Settings())
        self.opened = OpenRound(
            "run", 2, 1, bytes(32), bytes(32), "task", base, Schema((Tensor("w", (4,)),)), codec,
            Tally(frozenset(PEERS), 3, 2), bytes(32), folder, {},
        )  # fmt: skip
        self.board = Board()
        self.board.post(self.opened)
        self.service = MailboxService(self.roster, self.board, self.sessions)
        self.again()

    def again(self) -> None:
        """As after a restart."""
        self.opened.mail = Mail.of(self.journal, "run", self.round_keys, self.spool, True)

    def receipt(self, db: Any, sender: str, data: bytes, head: Letterhead, upload: bytes) -> None:
        db.execute(
            "INSERT INTO receipts (run, round, attempt, client, upload, payload, length) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*ROUND, sender, upload, hashlib.sha256(data).digest(), len(data)),
        )
        records.write_letter(db, ROUND, sender, head.SerializeToString())

    def head(self, sender: str, data: bytes) -> Letterhead:
        statement = UploadStatement(
            1, "fed", bytes(32), *ROUND, bytes(32), sender, bytes(32), "fedavg/1", len(data), hashlib.sha256(data).digest()
        )
        return Letterhead(
            manifest=manifest_of(statement), signature=self.keys[sender].sign(statement.signing_input()),
            signing_key=self.keys[sender].public_key().public_bytes_raw(), certificate=b"pem",
        )  # fmt: skip

    def identity(self, name: str) -> Identity:
        public = self.keys[name].public_key().public_bytes_raw()
        return Identity("fed", "client", name, hashlib.sha256(public).digest(), 0.0, 2e9)

    def caller(self, name: str) -> Caller:
        return Caller(self.identity(name), "test", None)  # type: ignore[arg-type]

    async def fetch(self, reader: str, *senders: str, offset: int = 0, task: TaskId | None = None) -> list[FetchResponse]:
        request = FetchRequest(task=task or self.opened.id, senders=senders, offset=offset)
        return [FetchResponse.FromString(one) async for one in self.service.fetch(request, self.caller(reader))]

    async def find(self, reader: str, *senders: str) -> FindResponse:
        return await self.service.find(FindRequest(task=self.opened.id, senders=senders), self.caller(reader))


def test_every_reader_gets_the_same_signed_bytes_in_the_order_asked_for(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open()
        by_a, by_c = await room.fetch("a", "b", "c", "a"), await room.fetch("c", "b", "c", "a")
        assert [one.SerializeToString() for one in by_a] == [one.SerializeToString() for one in by_c]
        heads = [one.head for one in by_a if one.HasField("head")]
        assert [head.manifest.client_id for head in heads] == ["b", "c", "a"]
        assert [one.offset for one in by_a] == [0, CHUNK, 0, 0]
        assert by_a[0].data + by_a[1].data == LETTERS["b"]
        assert [one.data for one in by_a[2:]] == [LETTERS["c"], LETTERS["a"]]
        for head in heads:
            key = room.keys[head.manifest.client_id].public_key()
            assert key.public_bytes_raw() == head.signing_key
            key.verify(head.signature, statement_of(head.manifest).signing_input())

    asyncio.run(play())


def test_a_letter_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open()
        found = await room.fetch("a", "b", "a", offset=CHUNK + 1)
        assert [one.HasField("head") for one in found] == [True, True]
        assert found[0].offset == CHUNK + 1
        assert found[0].data == LETTERS["b"][CHUNK + 1 :]
        assert found[1].data == LETTERS["a"]

    asyncio.run(play())


def test_letters_survive_a_restart_sealed_and_go_with_the_round_key(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open()
        files = list((tmp_path / "spool" / "run.1.1").iterdir())
        assert len(files) == 3
        assert not any(b"secret" in file.read_bytes() for file in files)
        assert records.live_rounds(room.journal) == {"run.1.1"}
        room.again()
        assert (await room.fetch("b", "a"))[0].data == LETTERS["a"]
        # The power is cut: what is left is noise, and readers are told of heads alone.
        room.round_keys.destroy("run.1.1")
        room.again()
        assert await room.fetch("b", "a") == []
        assert [one.head.manifest.client_id for one in (await room.find("b", "a")).senders] == ["a"]

    asyncio.run(play())


def test_only_survivors_letters_stay_and_none_after_the_last_round(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open()
        await room.journal.write(lambda db: records.settle_letters(db, ROUND, ("a", "c"), False, True))
        assert [letter.client for letter in records.letters(room.journal, "run")] == ["a", "c"]
        # Another attempt at the next round is abandoned: its own letters go, those it was to read stay.
        await room.journal.write(lambda db: records.forget_letters(db, ("run", 2, 1)))
        assert [letter.client for letter in records.letters(room.journal, "run")] == ["a", "c"]
        await room.journal.write(lambda db: records.settle_letters(db, ("run", 2, 1), ("a", "c"), True, False))
        assert records.letters(room.journal, "run") == []
        assert records.live_rounds(room.journal) == set()

    asyncio.run(play())


def test_addresses_of_active_senders_who_are_connected(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open(relayed=False)
        room.sessions.open("a", "ward-1:7443")
        room.sessions.open("b", "ward-2:7443")
        room.roster.get("b").state = "revoked"
        found = await room.find("c", "a", "b", "c")
        assert [one.address for one in found.senders] == ["ward-1:7443", "", ""]
        assert not found.relayed
        with pytest.raises(NotFound, match="not kept here"):
            await room.fetch("c", "a")
        assert records.live_rounds(room.journal) == set()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("reader", "senders", "offset", "refusal"),
    [
        ("d", ("a",), 0, Stale),
        ("a", ("d",), 0, NotFound),
        ("a", ("nobody",), 0, NotFound),
        ("a", ("../a",), 0, WrongShape),
        ("a", ("b", "b"), 0, WrongShape),
        ("a", ("c",), len(LETTERS["c"]) + 1, WrongShape),
    ],
)
def test_what_does_not_belong_is_refused(
    tmp_path: Path, reader: str, senders: tuple[str, ...], offset: int, refusal: type[FlError]
) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open()
        with pytest.raises(refusal):
            await room.fetch(reader, *senders, offset=offset)
        assert len(await room.fetch("b", "a")) == 1

    asyncio.run(play())


def test_other_methods_have_no_letters_and_other_tasks_no_access(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open()
        for task in (TaskId(run="run", round=1, attempt=1, nonce=bytes(32)), TaskId(run="run", round=2, attempt=1, nonce=b"x")):
            with pytest.raises(Stale):
                await room.fetch("a", "b", task=task)
        room.opened.mail = None
        with pytest.raises(OutsideLaw):
            await room.fetch("a", "b")

    asyncio.run(play())


def test_readers_are_let_go_when_the_round_ends(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open()
        request = FetchRequest(task=room.opened.id, senders=["b", "a"])
        stream = room.service.fetch(request, room.caller("a"))
        assert FetchResponse.FromString(await anext(stream)).head.manifest.client_id == "b"
        room.board.take_down(room.opened)
        with pytest.raises(Stale):
            await anext(stream)

    asyncio.run(play())
