"""Letters that are not what they must be, from senders and from the server, over real mutual TLS: each with its exact error.

What is asked of every case: the bad letter is left out for its own reason, and the honest one beside it is read.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from grpc import StatusCode
from tests.support import wire
from tests.support.letter_rig import BODY, CHUNK, Letter, Rig, rig

from edgehold.client import identity
from edgehold.client.peering import PeerService
from edgehold.client.policy import Policy
from edgehold.core.errors import (
    BadSignature,
    Busy,
    Corrupted,
    EquivocationError,
    FlError,
    IdentityError,
    JournalError,
    NotFound,
    PeerGone,
    Stale,
    TooLarge,
    TransferError,
    WrongShape,
)
from edgehold.proto.statements import statement_of
from edgehold.proto.v1.mailbox_pb2 import FetchResponse
from edgehold.proto.v1.peers_pb2 import ReadRequest, ReadResponse
from edgehold.proto.v1.transfer_pb2 import Manifest
from edgehold.server.identity.ca import CertificateAuthority


def play(folder: Path, scenario: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        async with rig(folder) as found:
            await scenario(found)

    asyncio.run(main())


def resigned(**changes: Any) -> Callable[[Rig], None]:
    """The liar signs something else about its letter."""

    def lie(rig: Rig) -> None:
        letter = rig.letters["liar"]
        rig.letters["liar"] = Letter(rig.head("liar", letter.data, **changes), letter.data)

    return lie


def tampered(rig: Rig) -> None:
    letter = rig.letters["liar"]
    rig.letters["liar"] = Letter(letter.head, letter.data[:-1] + bytes([letter.data[-1] ^ 1]))


def two_words(rig: Rig) -> None:
    other = rig.payload("liar", b"another")
    rig.letters["liar"] = Letter(rig.head("liar", other), other)


def forged(rig: Rig) -> None:
    rig.letters["liar"].head.signature = Ed25519PrivateKey.generate().sign(b"something")


def foreign_key(rig: Rig) -> None:
    """The server signs itself, by a key of its own under the liar's certificate."""
    mine = replace(rig.who["liar"], signing_key=Ed25519PrivateKey.generate())
    rig.letters["liar"].head.CopyFrom(rig.head("liar", rig.letters["liar"].data, mine))


def foreign_root(rig: Rig) -> None:
    own = rig.ca
    rig.ca = CertificateAuthority.create(rig.folder / "foreign", "fed")
    forger = rig.credentials("liar", signing=Ed25519PrivateKey.generate())
    rig.ca = own
    rig.letters["liar"].head.CopyFrom(rig.head("liar", rig.letters["liar"].data, forger))


def anothers_certificate(rig: Rig) -> None:
    rig.letters["liar"].head.certificate = rig.who["honest"].chain_pem


def endless_certificate(rig: Rig) -> None:
    rig.letters["liar"].head.certificate = bytes(9000)


def anothers_letter(rig: Rig) -> None:
    rig.letters["liar"].head.manifest.client_id = "stranger"


def too_long(rig: Rig) -> None:
    rig.letters["liar"].data += b"more"


def no_head(rig: Rig) -> None:
    def spoil(message: FetchResponse) -> FetchResponse:
        if message.head.manifest.client_id == "liar":
            message.ClearField("head")
        return message

    rig.spoil = spoil


def a_gap(rig: Rig) -> None:
    rig.spoil = lambda message: FetchResponse(head=message.head, offset=message.offset + 1, data=message.data) if (
        message.HasField("head") and message.head.manifest.client_id == "liar"
    ) else message  # fmt: skip


CASES: list[tuple[str, Callable[[Rig], None], type[FlError]]] = [
    ("tampered bytes", tampered, Corrupted),
    ("forged signature", forged, BadSignature),
    ("another key", foreign_key, IdentityError),
    ("another authority", foreign_root, IdentityError),
    ("another's certificate", anothers_certificate, IdentityError),
    ("a certificate without end", endless_certificate, TooLarge),
    ("another federation", resigned(federation="elsewhere"), IdentityError),
    ("wrong round", resigned(round=2), Stale),
    ("wrong run", resigned(run="other"), Stale),
    ("wrong plan", resigned(plan_digest=bytes([1] * 32)), Stale),
    ("other protocol", resigned(protocol_version=9), Stale),
    ("other kind", resigned(payload_kind="adding/2"), WrongShape),
    ("too large", resigned(payload_length=1 << 30), TooLarge),
    ("too small", resigned(payload_length=7), WrongShape),
    ("name that is none", resigned(run="../up"), WrongShape),
    ("other bytes than listed", two_words, EquivocationError),
    ("bytes without end", too_long, WrongShape),
    ("no head", no_head, WrongShape),
    ("a gap", a_gap, WrongShape),
    ("a sender nobody asked for", anothers_letter, WrongShape),
]


@pytest.mark.parametrize(("lie", "refusal"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_bad_letter_by_the_relay_is_left_out_for_its_own_reason(
    tmp_path: Path, lie: Callable[[Rig], None], refusal: type[FlError]
) -> None:
    async def scenario(rig: Rig) -> None:
        lie(rig)
        reading = await rig.relay("liar", "honest")
        assert {sender: type(error) for sender, error in reading.left_out.items()} == {"liar": refusal}
        assert reading.had == {"honest": rig.letters["honest"].data}

    play(tmp_path, scenario)


def test_honest_letters_are_read_also_over_broken_streams(tmp_path: Path) -> None:
    """The control; the stream breaks off twice in the middle of letters, and goes on where it was."""

    async def scenario(rig: Rig) -> None:
        offsets: list[int] = []
        breaks = iter((2 * CHUNK, CHUNK))
        at = next(breaks)

        def spoil(message: FetchResponse) -> FetchResponse:
            nonlocal at
            if message.offset == at:
                at = next(breaks, -1)
                raise TransferError("the link broke", retry_after_s=0.0)
            offsets.append(message.offset)
            return message

        rig.spoil = spoil
        reading = await rig.relay("liar", "honest")
        assert reading.had == {sender: rig.letters[sender].data for sender in ("liar", "honest")}
        assert not reading.left_out
        whole = [*range(0, BODY + 12, CHUNK)]
        assert offsets == whole + whole, "bytes came twice, or were lost"

    play(tmp_path, scenario)


def test_a_letter_that_the_server_lost_is_left_out(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        skipping = False

        def spoil(message: FetchResponse) -> FetchResponse | None:
            nonlocal skipping
            if message.HasField("head"):
                skipping = message.head.manifest.client_id == "liar"
            return None if skipping else message

        rig.spoil = spoil
        for order in (["liar", "honest"], ["honest", "liar"]):
            reading = await rig.relay(*order)
            assert {sender: type(error) for sender, error in reading.left_out.items()} == {"liar": NotFound}
            assert list(reading.had) == ["honest"]

    play(tmp_path, scenario)


# ---- keys


def test_a_key_changes_only_with_a_younger_certificate_and_never_back(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        async def read() -> type[FlError] | None:
            reading = await rig.relay("liar")
            return type(reading.left_out["liar"]) if reading.left_out else None

        def as_signed_by(mine: identity.Credentials) -> None:
            letter = rig.letters["liar"]
            rig.letters["liar"] = Letter(rig.head("liar", letter.data, mine), letter.data)

        assert await read() is None
        renewed = rig.credentials("liar", at_s=60.0)
        as_signed_by(renewed)
        assert await read() is None
        other = Ed25519PrivateKey.generate()
        as_signed_by(rig.credentials("liar", signing=other, at_s=30.0))
        assert await read() is IdentityError, "a key under a certificate older than one that was seen"
        as_signed_by(rig.credentials("liar", signing=other, at_s=120.0))
        assert await read() is None, "enrolled afresh"
        as_signed_by(renewed)
        assert await read() is IdentityError, "the old key came back"

    play(tmp_path, scenario)


# ---- directly


def test_a_letter_by_its_sender_is_read_without_the_relay(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        for sender in ("liar", "honest"):
            await rig.listens(sender)
        rig.relayed = False
        reading = await rig.direct("liar", "honest")
        assert reading.had == {sender: rig.letters[sender].data for sender in ("liar", "honest")}

    play(tmp_path, scenario)


def test_whoever_answers_at_a_senders_address_must_be_the_sender(tmp_path: Path) -> None:
    """The honest device answers with the liar's own letter: its certificate gives it away, before it is asked for anything."""

    async def scenario(rig: Rig) -> None:
        await rig.listens("honest")
        rig.addresses["liar"] = rig.addresses["honest"]
        rig.relayed = False
        reading = await rig.direct("liar", "honest")
        assert list(reading.had) == ["honest"]
        assert isinstance(reading.left_out["liar"], TransferError)
        assert "Hostname Verification Check failed" in reading.left_out["liar"].message

    play(tmp_path, scenario)


def test_an_address_that_is_none_and_a_sender_without_one(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.relayed = False
        rig.addresses["liar"] = "unix:/run/secret.sock"
        reading = await rig.direct("liar", "honest")
        assert {one: error.code for one, error in reading.left_out.items()} == {"liar": "wrong_shape", "honest": "peer_gone"}
        # Where the server has the letters, it is asked.
        rig.relayed = True
        assert sorted((await rig.direct("liar", "honest")).had) == ["honest", "liar"]

    play(tmp_path, scenario)


@pytest.mark.parametrize("relayed", [True, False])
def test_a_sender_that_tells_readers_different_things_is_found_and_proved(
    tmp_path: Path, relayed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The order lists what it uploaded. To this reader it serves other bytes, signed: two signatures, one task."""

    async def scenario(rig: Rig) -> None:
        uploaded = rig.letters["liar"]
        other = rig.payload("liar", b"for you alone")
        rig.letters["liar"] = Letter(rig.head("liar", other), other)
        await rig.listens("liar")
        rig.letters["liar"] = uploaded
        rig.relayed = relayed
        with caplog.at_level(logging.INFO, "edgehold.client"):
            # Asked for the listed digest, an honest listener has no such letter: the liar's answers all the same.
            rig.stack.enter_context(answering_anything())
            reading = await rig.direct("liar", "honest")
        if relayed:
            assert reading.had["liar"] == uploaded.data
        else:
            assert isinstance(reading.left_out["liar"], EquivocationError)
        (proof,) = [record.fields for record in caplog.records if record.getMessage() == "equivocation"]  # type: ignore[attr-defined]
        said = [Manifest.FromString(bytes.fromhex(proof[one])) for one in ("one", "other")]
        # Anybody who knows the sender's key can check it.
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(proof["signing_key"]))
        assert key == rig.signing["liar"].public_key()
        for name, manifest in zip(("one", "other"), said, strict=True):
            key.verify(bytes.fromhex(proof[f"{name}_signature"]), statement_of(manifest).signing_input())
        assert said[0].payload_digest != said[1].payload_digest
        for manifest in said:
            manifest.payload_digest = b""
        assert said[0] == said[1]

    play(tmp_path, scenario)


@contextlib.contextmanager
def answering_anything() -> Iterator[None]:
    """A device that was tampered with: it serves its newest letter whatever digest it is asked for."""

    async def read(self: PeerService, request: ReadRequest, caller: Any) -> AsyncIterator[ReadResponse]:
        (found,) = self._keep.letters()
        data = self._outbox.path(found.parcel.digest).read_bytes()
        yield ReadResponse(head=self._head(found, self._mine()), data=data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PeerService, "_read", read)
        yield


@pytest.mark.parametrize(
    ("said", "left_out"),
    [(JournalError("my disk"), FlError), (Busy("later", retry_after_s=1e9), Busy), (Corrupted("no"), Corrupted)],
)
def test_what_a_sender_says_of_itself_is_its_own_affair(tmp_path: Path, said: FlError, left_out: type[FlError]) -> None:
    """Above all, a sender that calls its answer a failure of the journal does not stop the reader."""

    async def scenario(rig: Rig) -> None:
        def lie(self: PeerService, request: ReadRequest, caller: Any) -> None:
            raise said

        rig.relayed = False
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PeerService, "read", lie)
            patch.setattr("edgehold.proto.rpc.JournalError", type("Nobody", (Exception,), {}))
            await rig.listens("liar")
            reading = await rig.direct("liar")
        assert type(reading.left_out["liar"]) is left_out

    play(tmp_path, scenario)


def test_a_sender_that_trickles_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        async def trickle(self: PeerService, request: ReadRequest, caller: Any) -> AsyncIterator[ReadResponse]:
            letter = rig.letters["liar"]
            yield ReadResponse(head=letter.head, data=letter.data[:1])
            for at in range(1, len(letter.data)):
                await asyncio.sleep(0.01)
                yield ReadResponse(offset=at, data=letter.data[at : at + 1])

        await rig.listens("liar")
        await rig.listens("honest")
        rig.relayed = False
        monkeypatch.setattr(PeerService, "_read", trickle)
        monkeypatch.setattr("edgehold.client.direct.CALL_S", 0.3)
        began = asyncio.get_running_loop().time()
        reading = await rig.direct("liar")
        # At that pace the letter takes 40 s.
        assert asyncio.get_running_loop().time() - began < 5.0
        assert isinstance(reading.left_out["liar"], PeerGone)

    play(tmp_path, scenario)


def test_one_reader_does_not_take_all_of_a_senders_places(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        going = asyncio.Event()

        async def slow(self: PeerService, request: ReadRequest, caller: Any) -> AsyncIterator[ReadResponse]:
            await going.wait()
            yield ReadResponse(head=rig.letters["honest"].head, data=rig.letters["honest"].data)

        await rig.listens("honest")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PeerService, "_read", slow)

            async def ask(name: str) -> wire.Answer:
                request = ReadRequest(task=rig.task(name), digest=rig.listing["honest"]).SerializeToString()
                mine = rig.who[name]
                options = [*wire.UNBOUND, ("grpc.ssl_target_name_override", "honest.client.fed.invalid")]
                tls = grpc.ssl_channel_credentials(mine.roots_pem, mine.key_pem, mine.chain_pem)
                async with grpc.aio.secure_channel(rig.addresses["honest"], tls, options=options) as channel:
                    return await wire.call(channel, "PeerService/Read", request)

            greedy = [asyncio.create_task(ask("reader")) for _ in range(3)]
            done, waiting = await asyncio.wait(greedy, return_when=asyncio.FIRST_COMPLETED)
            assert [(one.result().status, one.result().code) for one in done] == [(StatusCode.RESOURCE_EXHAUSTED, "busy")]
            other = asyncio.create_task(ask("liar"))
            going.set()
            assert [(await one).status for one in (*waiting, other)] == [StatusCode.OK] * 3

    play(tmp_path, scenario)


# ---- who may read a device


@pytest.mark.parametrize(
    ("caller", "ask", "status", "code"),
    [
        ("reader", {}, StatusCode.OK, None),
        ("reader", {"as_task_of": "honest"}, StatusCode.UNAUTHENTICATED, "bad_signature"),
        ("reader", {"round": 3}, StatusCode.FAILED_PRECONDITION, "stale"),
        ("reader", {"round": 1}, StatusCode.FAILED_PRECONDITION, "stale"),
        ("reader", {"plan_digest": bytes([1] * 32)}, StatusCode.FAILED_PRECONDITION, "stale"),
        ("reader", {"run": "other"}, StatusCode.NOT_FOUND, "not_found"),
        ("reader", {"federation": "other"}, StatusCode.PERMISSION_DENIED, "identity"),
        ("reader", {"digest": bytes(32)}, StatusCode.NOT_FOUND, "not_found"),
        ("reader", {"digest": b"short"}, StatusCode.INVALID_ARGUMENT, "wrong_shape"),
        ("reader", {"offset": 1 << 40}, StatusCode.INVALID_ARGUMENT, "wrong_shape"),
        ("reader", {"raw": b"\xfa\x7f\x01\x00"}, StatusCode.INVALID_ARGUMENT, "wrong_shape"),
        ("reader", {"raw": bytes(300_000)}, StatusCode.RESOURCE_EXHAUSTED, "too_large"),
        ("reader", {"owner_forbids": True}, StatusCode.FAILED_PRECONDITION, "policy_refused"),
        ("operator", {}, StatusCode.PERMISSION_DENIED, "identity"),
        ("server", {}, StatusCode.UNAVAILABLE, None),
        ("expired", {}, StatusCode.UNAVAILABLE, None),
        ("foreign", {}, StatusCode.UNAVAILABLE, None),
        ("nobody", {}, StatusCode.UNAVAILABLE, None),
    ],
)
def test_a_device_answers_peers_with_a_task_of_the_next_round_alone(
    tmp_path: Path, caller: str, ask: dict[str, Any], status: StatusCode, code: str | None
) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.listens("honest")
        mine = rig.who["reader"]
        if caller in ("operator", "server"):
            mine = rig.credentials("reader", role=caller)  # type: ignore[arg-type]
        elif caller == "expired":
            mine = rig.credentials("reader", at_s=-7200.0, life_s=3600.0)
        elif caller == "foreign":
            own, roots = rig.ca, rig.ca.trusted_pem()
            rig.ca = CertificateAuthority.create(rig.folder / "foreign", "fed")
            mine, rig.ca = replace(rig.credentials("reader"), roots_pem=roots), own
        told = dict(ask)
        if told.pop("owner_forbids", False):
            rig.policy = Policy(allowed_methods=("*",), allowed_tasks=("*",))
        raw, digest = told.pop("raw", None), told.pop("digest", rig.listing["honest"])
        offset, of = told.pop("offset", 0), told.pop("as_task_of", "reader")
        request = ReadRequest(task=rig.task(of, **told), digest=digest, offset=offset).SerializeToString()
        options = [*wire.UNBOUND, ("grpc.ssl_target_name_override", "honest.client.fed.invalid")]
        tls = grpc.ssl_channel_credentials(mine.roots_pem, mine.key_pem, mine.chain_pem)
        if caller == "nobody":
            tls = grpc.ssl_channel_credentials(mine.roots_pem)
        async with grpc.aio.secure_channel(rig.addresses["honest"], tls, options=options) as channel:
            answer = await wire.call(channel, "PeerService/Read", request if raw is None else raw)
        assert (answer.status, answer.code) == (status, code), answer
        if status is StatusCode.OK:
            assert b"".join(ReadResponse.FromString(one).data for one in answer.replies) == rig.letters["honest"].data

    play(tmp_path, scenario)
