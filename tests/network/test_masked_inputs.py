"""Bad messages of a masked sum over real mutual TLS: each field wrong by itself gets its exact answer, and the round completes.

Ten devices by hand; dev-0 misbehaves at every step and is honest afterwards. dev-8 vanishes after its shares, dev-9 sends its
keys too late. The model at the end is the sum of the eight that stayed.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message
from grpc import StatusCode
from tests.support import wire
from tests.support.masked import Memory, names, terms
from tests.support.masked_hands import Hand, meeting
from tests.support.wire import Answer, Device, call

from edgehold.client.data.synthetic import make_task
from edgehold.core.contract import Container, Payload
from edgehold.core.masks import shamir
from edgehold.core.masks.client import MaskClient
from edgehold.core.masks.upload import KIND
from edgehold.core.vectors import Bytes
from edgehold.proto.masks import advert_to
from edgehold.proto.v1.masks_pb2 import (
    AdvertiseRequest,
    AdvertiseResponse,
    MaskAdvert,
    MaskBox,
    MaskShare,
    RevealRequest,
    ShareRequest,
    ShareResponse,
    SurvivorsRequest,
)

VALUES, CLIENTS = 500, 10
PLAN = """
[run]
name = "{run}"
rounds = 1
task = "synthetic"
[cohort]
size = 10
quorum = 8
over_select = 1.0
join_deadline_s = 20.0
round_deadline_s = {deadline}
max_attempts = 1
[method]
name = "fedavg"
[weights]
by = "equal"
[evaluation]
every = 0
"""
MASKED = "[privacy]\nmasked = true\n[masks]\nclip = 4.0\ngroup_least = 8\nstep_deadline_s = 4.0\n"

INVALID, DENIED, STALE = StatusCode.INVALID_ARGUMENT, StatusCode.PERMISSION_DENIED, StatusCode.FAILED_PRECONDITION
WRONG, FOREIGN, LATE = (INVALID, "wrong_shape"), (DENIED, "identity"), (STALE, "stale")
TWICE = (StatusCode.ALREADY_EXISTS, "duplicate")
Bend = Callable[[Any], object]


def bent(request: Message, bend: Bend) -> Message:
    """A copy with something wrong."""
    found = type(request)()
    found.CopyFrom(request)
    bend(found)
    return found


def put(path: str, value: object) -> Bend:
    """Sets a field: advert.mask_key, task.round."""

    def bend(message: Any) -> None:
        *way, last = path.split(".")
        for name in way:
            message = message[int(name)] if name.isdigit() else getattr(message, name)
        setattr(message, last, value)

    return bend


OTHER_TASKS: dict[str, tuple[Bend, tuple[StatusCode, str]]] = {
    "another client's nonce": (put("task.nonce", bytes(32)), LATE),
    "no nonce": (put("task.nonce", b""), LATE),
    "another run": (put("task.run", "other"), LATE),
    "another round": (put("task.round", 2), LATE),
    "another attempt": (put("task.attempt", 2), LATE),
}
SHORT, LONG = bytes(31), bytes(33)
ADVERTS: dict[str, tuple[Bend, tuple[StatusCode, str]]] = {
    **OTHER_TASKS,
    "another's name": (put("advert.client_id", "dev-1"), FOREIGN),
    "a name that is none": (put("advert.client_id", "../dev-0"), WRONG),
    "no name": (put("advert.client_id", ""), WRONG),
    **{
        f"{name} of {len(value)} bytes": (put(f"advert.{name}", value), WRONG)
        for name in ("transcript", "mask_key", "seal_key", "seed_commitment", "signing_key")
        for value in (SHORT, LONG)
    },
    "signature of 63 bytes": (put("advert.signature", bytes(63)), WRONG),
    "certificate of 5 KiB": (put("advert.certificate", bytes(5 << 10)), WRONG),
    "another attempt's transcript": (put("advert.transcript", bytes(32)), LATE),
    "no certificate": (put("advert.certificate", b""), FOREIGN),
    "a certificate that is none": (put("advert.certificate", b"0" * 700), FOREIGN),
    "a signing key of another": (put("advert.signing_key", bytes(range(32))), FOREIGN),
    "a wrong signature": (put("advert.signature", bytes(64)), (StatusCode.UNAUTHENTICATED, "bad_signature")),
    "a key exchanged after the signature": (
        put("advert.mask_key", bytes(range(32))), (StatusCode.UNAUTHENTICATED, "bad_signature"),
    ),
    "a commitment exchanged after the signature": (
        put("advert.seed_commitment", bytes(32)), (StatusCode.UNAUTHENTICATED, "bad_signature"),
    ),
    "no advert at all": (lambda one: one.ClearField("advert"), WRONG),
}  # fmt: skip
BOXES: dict[str, tuple[Bend, tuple[StatusCode, str]]] = {
    **OTHER_TASKS,
    "one box less": (lambda one: one.boxes.pop(), WRONG),
    "no box": (lambda one: one.ClearField("boxes"), WRONG),
    "one box twice": (lambda one: one.boxes.append(one.boxes[0]), WRONG),
    "one for itself": (put("boxes.0.receiver", "dev-0"), WRONG),
    "one for a stranger": (put("boxes.0.receiver", "mole"), WRONG),
    "one from another": (put("boxes.0.sender", "dev-1"), WRONG),
    "a sender that is no name": (put("boxes.0.sender", "Dev 1"), WRONG),
    "a receiver that is no name": (put("boxes.0.receiver", ""), WRONG),
    "a box of 81 bytes": (put("boxes.0.sealed", bytes(81)), WRONG),
    "a box of 83 bytes": (put("boxes.0.sealed", bytes(83)), WRONG),
    "64 boxes": (lambda one: one.boxes.extend([one.boxes[0]] * 56), WRONG),
}
ABOVE = shamir.PRIME.to_bytes(33, "little")
REVEALS: dict[str, tuple[Bend, tuple[StatusCode, str]]] = {
    **OTHER_TASKS,
    "another set": (put("set_digest", bytes(32)), LATE),
    "a digest of 31 bytes": (put("set_digest", SHORT), WRONG),
    "one seed less": (lambda one: one.seeds.pop(), WRONG),
    "no mask key": (lambda one: one.masks.pop(), WRONG),
    "both kinds of one": (lambda one: one.masks.append(one.seeds[0]), WRONG),
    "a seed of one that vanished": (lambda one: one.seeds.append(one.masks[0]), WRONG),
    "one owner twice": (lambda one: one.seeds.append(one.seeds[0]), WRONG),
    "its own seed": (lambda one: one.seeds.append(MaskShare(owner="dev-0", share=bytes(33))), WRONG),
    "a stranger's": (put("seeds.0.owner", "mole"), WRONG),
    "an owner that is no name": (put("seeds.0.owner", "A"), WRONG),
    "a share of 32 bytes": (put("seeds.0.share", bytes(32)), WRONG),
    "a share of 34 bytes": (put("masks.0.share", bytes(34)), WRONG),
    "a seed share above the prime": (put("seeds.0.share", ABOVE), WRONG),
    "a mask share above the prime": (put("masks.0.share", ABOVE), WRONG),
    "64 shares": (lambda one: one.seeds.extend(MaskShare(owner=f"x{i}", share=bytes(33)) for i in range(64)), WRONG),
}


async def refused(hand: Hand, request: Message, table: dict[str, tuple[Bend, tuple[StatusCode, str]]]) -> None:
    """All of the table, and what no message may have."""
    for name, (bend, (status, code)) in table.items():
        exact(name, await hand.ask(bent(request, bend)), status, code)
    method, whole = f"MaskService/{request.DESCRIPTOR.name.removesuffix('Request')}", request.SerializeToString()
    for name, data, refusal in (
        ("an unknown field", whole + b"\x7a\x01x", WRONG),
        ("bytes that do not decode", whole + b"\x0a\xff", WRONG),
        ("a message above the limit", whole + b"\x7b" * (256 << 10), (StatusCode.RESOURCE_EXHAUSTED, "too_large")),
    ):
        exact(name, await call(hand.device.channel, method, data), *refusal)


def exact(name: str, answer: Answer, status: StatusCode, code: str) -> None:
    assert (answer.status, answer.code) == (status, code), f"{name}: {answer}"


async def advert_of(hand: Hand, name: str) -> Message:
    """Fresh keys of the same device for the same attempt, well signed."""
    before = hand.machine
    hand.begin()
    other, hand.machine = hand.advertise(), before
    assert other.advert.client_id == name
    return other


@pytest.mark.slow
def test_every_wrong_field_gets_its_answer_and_the_round_completes(tmp_path: Path) -> None:
    async def play() -> None:
        async with meeting(tmp_path, CLIENTS, VALUES) as (place, hands):
            mallory, vanishing, late = hands[0], hands[8], hands[9]
            await wire.submit(place.stub, PLAN.format(run="bad", deadline=8.0) + MASKED)
            for hand in hands:
                await hand.device.task("bad")
                hand.begin()
                hand.vector = np.full(VALUES, hand.terms.largest // 2 + 1000)

            # Step 1.
            await refused(mallory, mallory.advertise(), ADVERTS)
            weak = await _signed(mallory, mask_key=bytes(32))
            exact("a key of low order", await mallory.ask(weak), *WRONG)
            twin = await _signed(mallory, seal_key=mallory.machine.advert.mask_key)
            exact("one key for both", await mallory.ask(twin), *WRONG)
            for message in (_share(mallory), _reveal(mallory)):
                exact("a later step", await mallory.ask(message), *LATE)
            early = await mallory.device.upload(
                Container.prefix(Payload(b"", Bytes(b""))) + bytes(4 * VALUES), payload_kind=KIND
            )
            exact("a masked vector before the shares", early, *LATE)
            assert (await mallory.send(mallory.advertise(), AdvertiseResponse)).HasField("receipt")
            exact("other keys", await mallory.ask(await advert_of(mallory, "dev-0")), *TWICE)
            taken = await _signed(hands[1], mask_key=mallory.machine.advert.seal_key)
            exact("another's key", await hands[1].ask(taken), *WRONG)
            # Once more the very same: the same answer on another stream.
            assert (await mallory.send(mallory.advertise(), AdvertiseResponse)).HasField("receipt")
            for hand in hands[1:9]:
                await hand.send(hand.advertise(), AdvertiseResponse)

            # Step 2, once dev-9 was waited for in vain.
            for hand in hands[:9]:
                await hand.roster()
            exact("keys after the draw", await late.ask(late.advertise()), *LATE)
            exact("shares of one outside", await late.ask(_share(late)), *LATE)
            await refused(mallory, mallory.share(), BOXES)
            assert (await mallory.send(mallory.share(), ShareResponse)).HasField("receipt")
            other = bent(mallory.share(), put("boxes.0.sealed", bytes(82)))
            exact("other shares", await mallory.ask(other), *TWICE)
            exact("a masked vector before all have shared", await _vector(mallory, bytes(4 * VALUES)), *LATE)
            for hand in hands[1:9]:
                await hand.send(hand.share(), ShareResponse)

            # Step 3: whoever sends a vector that is refused is out of the round, so that this is for the one who vanishes.
            for hand in hands[:9]:
                await hand.boxes()
            exact("a vector of one who sent no keys", await _vector(late, bytes(4 * VALUES)), *LATE)
            exact("an unmasked update", await vanishing.device.upload(wire.honest_update(VALUES)), *WRONG)
            exact("four bytes less", await _vector(vanishing, bytes(4 * VALUES - 4)), *WRONG)
            exact("a megabyte more", await _vector(vanishing, bytes(1 << 20)), *WRONG)
            header = Container.prefix(Payload(b"abcd", Bytes(b""))) + bytes(4 * VALUES)
            exact("a header", await vanishing.device.upload(header, payload_kind=KIND), *WRONG)
            for hand in hands[:8]:
                assert (await hand.upload()).status is StatusCode.OK
            exact("another vector", await _vector(mallory, bytes(4 * VALUES)), *TWICE)

            # Steps 4 and 5.
            for hand in hands[:8]:
                assert (await hand.asked()).clients == tuple(f"dev-{index}" for index in range(8))
            answer = mallory.reveal()
            exact(
                "shares after the set", await vanishing.ask(bent(vanishing.share(), put("boxes.0.sealed", bytes(82)))), *TWICE
            )
            assert [one.owner for one in answer.masks] == ["dev-8"]
            await refused(mallory, answer, REVEALS)
            exact("reveals of one who vanished", await vanishing.ask(_as(vanishing, answer)), *LATE)
            exact("a set asked for by one outside", await late.ask(_set(late)), *LATE)
            await mallory.revealed()
            exact("other shares", await mallory.ask(bent(answer, put("seeds.0.share", bytes(33)))), *TWICE)
            for hand in hands[1:8]:
                await hand.revealed()
            info = await wire.finished(place.stub, "bad")
            assert (info.state, info.error, info.rounds_done) == ("finished", "", 1)
            found = np.frombuffer((place.home / "blobs" / info.model_digest.hex()).read_bytes(), "<f4")
            start = make_task(VALUES).initial(0)
            step = 1000 * mallory.terms.grid.step
            assert np.abs(found - start - step).max() < 2**-22
            exact("after the commit", await mallory.ask(answer), *LATE)

    asyncio.run(play())


async def _vector(hand: Hand, body: bytes) -> Answer:
    return await hand.device.upload(Container.prefix(Payload(b"", Bytes(b""))) + body, payload_kind=KIND)


async def _signed(hand: Hand, **changed: bytes) -> AdvertiseRequest:
    """An advert with other keys that its own client signed."""
    bare = replace(hand.machine.advert, **changed)  # type: ignore[arg-type]
    advert = replace(bare, signature=hand.device.credentials.signing_key.sign(bare.signing_input()))
    return AdvertiseRequest(task=hand.device.assignment.id, advert=advert_to(advert))


def _share(hand: Hand) -> ShareRequest:
    box = MaskBox(sender=hand.name, receiver="dev-1", sealed=bytes(82))
    return ShareRequest(task=hand.device.assignment.id, boxes=[box])


def _reveal(hand: Hand) -> RevealRequest:
    return RevealRequest(task=hand.device.assignment.id, set_digest=bytes(32))


def _set(hand: Hand) -> SurvivorsRequest:
    return SurvivorsRequest(task=hand.device.assignment.id)


def _as(hand: Hand, request: RevealRequest) -> RevealRequest:
    found = RevealRequest()
    found.CopyFrom(request)
    found.task.CopyFrom(hand.device.assignment.id)
    return found


def test_steps_of_a_masked_sum_in_a_round_without_masks_and_by_whom_was_not_asked(tmp_path: Path) -> None:
    async def play() -> None:
        async with meeting(tmp_path, 2, VALUES) as (place, hands):
            text = PLAN.format(run="open", deadline=20.0).replace("size = 10", "size = 1").replace("quorum = 8", "quorum = 1")
            await wire.submit(place.stub, text)
            chosen = asyncio.create_task(hands[0].device.task("open"))
            other = asyncio.create_task(hands[1].device.task("open"))
            await asyncio.wait([chosen, other], return_when=asyncio.FIRST_COMPLETED)
            asked, left = (hands[0], hands[1]) if chosen.done() else (hands[1], hands[0])
            for task in (chosen, other):
                task.cancel()
            left.device.assignment = asked.device.assignment
            box = MaskBox(sender=asked.name, receiver="dev-7", sealed=bytes(82))
            advert = AdvertiseRequest(task=asked.device.assignment.id, advert=_advert(asked.device))
            where = asked.device.assignment.id
            for request in (
                advert, ShareRequest(task=where, boxes=[box]), _reveal(asked), SurvivorsRequest(task=where),
            ):  # fmt: skip
                exact(str(type(request)), await asked.ask(request), INVALID, "outside_law")
            exact("one who was not asked", await left.ask(SurvivorsRequest(task=where)), INVALID, "outside_law")
            exact("a masked vector", await _vector(asked, bytes(4 * VALUES)), *WRONG)
            assert (await asked.device.upload(wire.honest_update(VALUES))).status is StatusCode.OK
            assert (await wire.finished(place.stub, "open")).state == "finished"

    asyncio.run(play())


def _advert(device: Device) -> MaskAdvert:
    """Well-formed, and that is all."""
    machine = MaskClient.advertise(
        terms(names(9)), device.name, certificate=b"c", signing_key=bytes(32), sign=device.credentials.signing_key.sign,
        roots=(), server_key=bytes(32), journal=Memory(),
    )  # fmt: skip
    return advert_to(machine.advert)
