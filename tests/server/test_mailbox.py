"""The mailbox: one signed message per sender, identical for every reader, kept over a restart, gone with the round."""

import asyncio
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgehold.core.errors import BadSignature, Corrupted, Duplicate, FlError, OutsideLaw, Stale, TooLarge, WrongShape
from edgehold.core.identity import Identity
from edgehold.core.vectors import Schema, Tensor
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.state import Settings
from edgehold.proto.rpc import Caller
from edgehold.proto.strict import CHUNK_LIMIT
from edgehold.proto.v1.control_pb2 import TaskId
from edgehold.proto.v1.mailbox_pb2 import FetchRequest, FetchResponse, PostRequest
from edgehold.proto.v1.transfer_pb2 import Manifest
from edgehold.server.identity.roster import Roster
from edgehold.server.rounds.admission import Admission, statement_of
from edgehold.server.rounds.board import Board, OpenRound
from edgehold.server.rounds.tally import Tally
from edgehold.server.store.blobs import BlobStore
from edgehold.server.store.journal import Journal
from edgehold.server.store.mail import Mail
from edgehold.server.wire.mailbox import MailboxService

PEERS = ("a", "b", "c")
KEY = bytes(range(32))


@dataclass
class Room:
    """A round with mail for three peers, without a network. d is on the roster but was not selected."""

    folder: Path
    with_mail: bool = True
    keys: dict[str, Ed25519PrivateKey] = field(default_factory=dict)

    async def open(self) -> None:
        self.journal = Journal(self.folder)
        self.roster = Roster(self.journal)
        for name in (*PEERS, "d"):
            await self.roster.add(name, ())
            self.keys[name] = Ed25519PrivateKey.generate()
            await self.roster.introduce(self.identity(name), self.keys[name].public_key().public_bytes_raw())
        base = BlobStore(self.folder / "blobs").put(np.zeros(4, "<f4"))
        spool = self.folder / "spool"
        spool.mkdir()
        self.opened = OpenRound(
            "run", 1, 1, bytes(32), bytes(32), "task", base, Schema((Tensor("w", (4,)),)), registry.codec("fedavg", Settings()),
            Tally(frozenset(PEERS), 3, 2), KEY, spool, {}, mail=Mail(spool, KEY) if self.with_mail else None,
        )  # fmt: skip
        board = Board()
        board.post(self.opened)
        self.service = MailboxService(self.roster, board, Admission(self.journal, board, "fed", spool, 1 << 20, 0.0))

    def identity(self, name: str) -> Identity:
        public = self.keys[name].public_key().public_bytes_raw()
        return Identity("fed", "client", name, hashlib.sha256(public).digest(), 0.0, 2e9)

    def caller(self, name: str) -> Caller:
        return Caller(self.identity(name), "test", None)  # type: ignore[arg-type]

    def letter(self, sender: str, data: bytes, signer: str | None = None, **changes: Any) -> PostRequest:
        manifest = Manifest(
            protocol_version=1, federation="fed", plan_digest=bytes(32), task=self.opened.id, client_id=sender,
            base_digest=self.opened.base.digest, payload_kind="fedavg/1/peer", payload_length=len(data),
            payload_digest=hashlib.sha256(data).digest(),
        )  # fmt: skip
        for key, value in changes.items():
            setattr(manifest, key, value)
        signature = self.keys[signer or sender].sign(statement_of(manifest).signing_input())
        return PostRequest(manifest=manifest, signature=signature, data=data)

    async def post(self, sender: str, data: bytes, **changes: Any) -> None:
        await self.service.post(self.letter(sender, data, **changes), self.caller(sender))

    async def fetch(self, reader: str, count: int | None = None) -> list[FetchResponse]:
        letters = []
        async for letter in self.service.fetch(FetchRequest(task=self.opened.id), self.caller(reader)):
            letters.append(letter)
            if len(letters) == count:
                break
        return letters


def test_every_reader_gets_the_same_signed_bytes_and_late_ones_as_they_come(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open()
        await room.post("b", b"from b")
        await room.post("a", b"from a")
        waiting = asyncio.create_task(room.fetch("c"))
        await asyncio.sleep(0)
        await room.post("c", b"from c")
        by_c, by_a = await waiting, await room.fetch("a")
        assert [letter.data for letter in by_c] == [b"from a", b"from b", b"from c"]
        assert [letter.SerializeToString() for letter in by_c] == [letter.SerializeToString() for letter in by_a]
        for letter in by_c:
            key = room.keys[letter.manifest.client_id].public_key()
            assert key.public_bytes_raw() == letter.signing_key
            key.verify(letter.signature, statement_of(letter.manifest).signing_input())

    asyncio.run(play())


def test_mail_survives_a_restart_and_is_sealed_on_disk(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open()
        await room.post("a", b"a secret between peers")
        stored = (tmp_path / "spool" / "mail-a").read_bytes()
        assert b"secret" not in stored
        (tmp_path / "spool" / "mail-b").write_bytes(stored[:-3])  # another one, cut short by a crash
        room.opened.mail = Mail(tmp_path / "spool", KEY)
        await room.post("b", b"b again")
        assert [letter.data for letter in await room.fetch("c", 2)] == [b"a secret between peers", b"b again"]

    asyncio.run(play())


def test_same_message_again_is_fine_and_another_one_is_a_duplicate(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open()
        await room.post("a", b"first")
        await room.post("a", b"first")
        with pytest.raises(Duplicate):
            await room.post("a", b"second")
        assert [letter.data for letter in await room.fetch("b", 1)] == [b"first"]

    asyncio.run(play())


@pytest.mark.parametrize(
    ("sender", "data", "changes", "refusal"),
    [
        ("d", b"x", {}, Stale),
        ("a", b"x", {"signer": "b"}, BadSignature),
        ("a", b"x", {"payload_length": 2}, WrongShape),
        ("a", b"x", {"payload_digest": bytes(32)}, Corrupted),
        ("a", b"x", {"payload_kind": "fedavg/1"}, WrongShape),
        ("a", b"x", {"plan_digest": bytes([1] * 32)}, Stale),
        ("a", bytes(CHUNK_LIMIT + 1), {}, TooLarge),
    ],
)
def test_what_does_not_belong_is_refused(
    tmp_path: Path, sender: str, data: bytes, changes: dict[str, Any], refusal: type[FlError]
) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open()
        with pytest.raises(refusal):
            await room.post(sender, data, **changes)
        await room.post("b", b"still works")

    asyncio.run(play())


def test_outsiders_read_nothing_and_other_methods_have_no_mail(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open()
        with pytest.raises(Stale):
            await room.fetch("d")
        room.opened.mail = None
        with pytest.raises(OutsideLaw):
            await room.fetch("a")
        with pytest.raises(Stale):
            async for _ in room.service.fetch(
                FetchRequest(task=TaskId(run="run", round=2, attempt=1, nonce=bytes(32))), room.caller("a")
            ):
                pass

    asyncio.run(play())


def test_readers_are_let_go_when_the_round_ends(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        await room.open()
        waiting = asyncio.create_task(room.fetch("a"))
        await asyncio.sleep(0)
        room.opened.close()
        assert await asyncio.wait_for(waiting, 5) == []

    asyncio.run(play())
