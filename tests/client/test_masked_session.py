"""Lying servers over real gRPC against a real session: the audit line, what the server hears, and that no secret stays."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.masks import test_lying_server as lies
from tests.support.masked import FEDERATION, NOW_S, SERVER, VALUE, Memory, Played, authority, client, identity, masked, roots
from tests.support.waiting import eventually

from edgehold.client import masking
from edgehold.core.masks import draw
from edgehold.core.masks.client import MaskClient
from edgehold.core.masks.draw import Entrant
from edgehold.core.masks.gathering import Gathering
from edgehold.core.masks.group import MaskGroup
from edgehold.core.masks.messages import Box, Roster, Survivors
from edgehold.core.masks.sizing import sized
from edgehold.core.masks.terms import Terms
from edgehold.core.plan import MasksTable
from edgehold.core.vectors import Bytes
from edgehold.proto.masks import (
    advert_from,
    boxes_from,
    boxes_to,
    reveal_from,
    roster_to,
    survivors_to,
)
from edgehold.proto.rpc import Caller
from edgehold.proto.terms import said_of, terms_of
from edgehold.proto.v1 import masks_pb2
from edgehold.proto.v1.control_pb2 import TaskAssignment
from edgehold.proto.v1.masks_pb2 import (
    AdvertiseRequest,
    AdvertiseResponse,
    MaskBoxes,
    MaskReceipt,
    RevealRequest,
    RevealResponse,
    ShareRequest,
    ShareResponse,
    SurvivorsRequest,
    SurvivorsResponse,
)

if TYPE_CHECKING:
    from tests.client.conftest import Lab

ME, VALUES = "device-1", 1000
PEERS = tuple(f"device-00{index}" for index in range(8))
EVERYBODY = (*PEERS, ME)


def honest(found: Any) -> Any:
    return found


@dataclass
class Sums:
    """The collecting side and eight devices beside the one under test. The lies take what is true and give what is said.

    calls: steps the device has asked for. over: set once the round is.
    """

    roster_lie: Callable[[Played], Roster] = lambda played: played.group.roster
    boxes_lie: Callable[[list[Box]], list[Box]] = honest
    set_lie: Callable[[Survivors], Survivors] = honest
    calls: list[str] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    answers: list[Any] = field(default_factory=list)

    def begin(self, terms: Terms) -> None:
        """A new attempt."""
        self.terms, self.uploads = terms, dict[str, Bytes]()
        self.peers = {who: client(who, terms, Memory()) for who in PEERS}
        self.gathering = Gathering(terms, VALUE, [Entrant(who) for who in EVERYBODY])
        for one in self.peers.values():
            self.gathering.add(one.advert, roots(), NOW_S)
        self.vectors = {who: np.full(VALUES, terms.largest // 2) for who in PEERS}

    @property
    def played(self) -> Played:
        clients: dict[str, MaskClient] = dict(self.peers)
        return Played(self.terms, clients, {}, (self.group.roster,), {}, self.group)

    async def advertise(self, request: AdvertiseRequest, caller: Caller) -> AsyncIterator[AdvertiseResponse]:
        self.calls.append("Advertise")
        yield AdvertiseResponse(receipt=MaskReceipt())
        self.gathering.add(advert_from(request.advert), roots(), NOW_S)
        self.group = MaskGroup(self.gathering.close()[0])
        yield AdvertiseResponse(roster=roster_to(self.roster_lie(self.played)))

    async def share(self, request: ShareRequest, caller: Caller) -> AsyncIterator[ShareResponse]:
        self.calls.append("Share")
        yield ShareResponse(receipt=MaskReceipt())
        self.group.share(ME, boxes_from(request.boxes))
        for who, one in self.peers.items():
            self.group.share(who, one.share(self.group.roster, NOW_S))
        self.group.close_shares()
        for who, one in self.peers.items():
            if one.phase == "shared":
                one.receive(self.group.boxes_for(who))
                self.uploads[who] = masked(one, self.vectors[who])
                self.group.upload(who, one.upload_digest, self.uploads[who].size)
        yield ShareResponse(boxes=MaskBoxes(boxes=boxes_to(self.boxes_lie(list(self.group.boxes_for(ME))))))

    def frozen(self) -> Survivors:
        if self.group.phase == "collect":
            self.group.upload(ME, b"d" * 32, self.terms.payload_bytes)
        return self.group.freeze(SERVER.sign)

    async def survivors(self, request: SurvivorsRequest, caller: Caller) -> AsyncIterator[SurvivorsResponse]:
        self.calls.append("Survivors")
        yield SurvivorsResponse(waiting=MaskReceipt())
        yield SurvivorsResponse(set=survivors_to(self.set_lie(self.frozen())))

    async def reveal(self, request: RevealRequest, caller: Caller) -> AsyncIterator[RevealResponse]:
        self.calls.append("Reveal")
        self.answers.append(reveal_from(request, ME))
        self.group.reveal(self.answers[-1])
        yield RevealResponse(over=False)
        await self.over.wait()
        yield RevealResponse(over=True)


@pytest.fixture
def sums(lab: "Lab", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Sums:
    """A lab whose device has the certificate that others of the tests' federation accept."""
    assert authority(FEDERATION, 0)
    monkeypatch.setattr(masking, "time", SimpleNamespace(time=lambda: NOW_S))
    mine, usual = identity(ME), lab.credentials
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    chain = x509.load_der_x509_certificate(mine.certificate).public_bytes(Encoding.PEM)
    pem = b"".join(root.public_bytes(Encoding.PEM) for root in roots())
    lab.signing_key = mine.key
    monkeypatch.setattr(lab, "credentials", lambda: replace(usual(), chain_pem=chain, roots_pem=pem))
    lab.home.policy.write_text(lab.home.policy.read_text().replace("allow_unmasked = true", "allow_unmasked = false"))
    caplog.set_level(logging.INFO, "edgehold.client")
    found = Sums()
    lab.services = [(masks_pb2.DESCRIPTOR.services_by_name["MaskService"], found)]
    return found


def task(lab: "Lab", sums: Sums, **where: Any) -> TaskAssignment:
    """A task of a masked round, signed."""
    lab.server.key = SERVER
    size = sized(MasksTable(clip=4.0, group_least=8), VALUES, 0)
    found = lab.server.task(VALUES, **where)
    asked = [Entrant(who) for who in EVERYBODY]
    terms = Terms(
        found.federation, found.plan_digest, found.id.run, found.id.round, found.id.attempt, found.id.nonce, found.base_digest,
        draw.commitment(VALUE, asked), size.entries, size.largest, size.bits, size.margin, size.cipher, size.least, size.most,
        size.clip, size.norm, size.variance, size.helpers,
    )  # fmt: skip
    found.mask.CopyFrom(said_of(terms))
    assert terms_of(found) == terms
    sums.begin(terms)
    return lab.server.sign(found)


def rows(lab: "Lab", table: str) -> int:
    with lab.keep._db.reading() as db:
        return int(db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


def audits(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Audit lines in the daemon's log."""
    found = [getattr(record, "fields", {}) for record in caplog.records if record.getMessage() == "mask_refused"]
    return [str(fields["audit"]) for fields in found]


async def refused(lab: "Lab", caplog: pytest.LogCaptureFixture, code: str, word: str) -> None:
    """One audit line, one decline, and nothing that could unmask is left: no secret, no update."""
    await eventually(lambda: lab.server.declines, what="a decline")
    await eventually(lambda: not rows(lab, "mask") and not lab.outbox(), what="secrets and updates to go")
    assert [one.code for one in lab.server.declines] == [code]
    (line,) = audits(caplog)
    assert line.startswith(f"{code} {word}: ")
    assert not rows(lab, "revealed")


def test_a_whole_sum(lab: "Lab", sums: Sums) -> None:
    """The control: with a server that keeps to the protocol the device's vector is in the sum, and only masked bytes left."""

    async def scenario(lab: "Lab") -> None:
        lab.server.key = SERVER
        async with lab.client():
            lab.server.assign(task(lab, sums))
            await eventually(lambda: sums.answers, what="a reveal")
            assert rows(lab, "mask") == rows(lab, "revealed") == 1
            for who, one in sums.peers.items():
                sums.group.reveal(one.reveal(sums.frozen()))
                assert who in sums.group.answered
            (whole,) = lab.server.received
            sums.uploads[ME] = Bytes(whole[4:])
            total = sums.group.settle(sums.uploads, lambda blocks, survivors: None)
            change = np.concatenate(list(total.blocks())) - 9 * (sums.terms.largest // 2)
            # What the device's training adds is one number, everywhere the same but for rounding.
            assert abs(change * sums.terms.grid.step - np.median(change) * sums.terms.grid.step).max() < 2**-20
            assert np.median(change) > 0
            assert lab.server.kinds == ["masked/1"]
            sums.over.set()
            await eventually(lambda: not rows(lab, "mask") and not lab.outbox(), what="secrets to go")
            assert sums.calls == ["Advertise", "Share", "Survivors", "Reveal"]
            assert rows(lab, "revealed") == 1

    lab.run(scenario)
    assert lab.states() == ["acknowledged"]


ROSTERS = [
    lies.roster_below_eight, lies.unordered_group, lies.repeated_id, lies.repeated_key, lies.repeated_signing_key,
    lies.forged_certificate, lies.certificate_of_another, lies.key_of_another, lies.forged_signature, lies.expired_certificate,
    lies.weak_key, lies.other_draw_value, lies.group_of_its_choice, lies.advert_beside_the_draw,
]  # fmt: skip


@pytest.mark.parametrize("lie", ROSTERS, ids=lambda lie: lie.__name__)
def test_a_lying_roster(lab: "Lab", sums: Sums, caplog: pytest.LogCaptureFixture, lie: Callable[[Played], Roster]) -> None:
    error, word = lies.ROSTERS[lie]
    sums.roster_lie = lie

    async def scenario(lab: "Lab") -> None:
        lab.server.key = SERVER
        async with lab.client():
            lab.server.assign(task(lab, sums))
            await refused(lab, caplog, error.code, word)
            assert sums.calls == ["Advertise"]
            assert lab.server.received == []

    lab.run(scenario)
    assert lab.states() == ["dropped"]


def test_a_second_roster(lab: "Lab", sums: Sums) -> None:
    """After a restart another roster is on offer: whoever has sealed shares asks for none, and seals the same ones again."""
    first: list[Any] = []

    async def scenario(lab: "Lab") -> None:
        lab.server.key = SERVER
        held = asyncio.Event()
        usual = sums.share

        async def share(request: ShareRequest, caller: Caller) -> AsyncIterator[ShareResponse]:
            first.append(request)
            yield ShareResponse(receipt=MaskReceipt())
            await held.wait()
            async for one in usual(request, caller):
                yield one

        sums.share = share  # type: ignore[method-assign]
        async with lab.client():
            lab.server.assign(task(lab, sums))
            await eventually(lambda: first, what="shares")
        sums.roster_lie = lies.group_of_its_choice
        async with lab.client():
            await eventually(lambda: len(first) == 2, what="shares again")
            assert first[0] == first[1]
            held.set()
            await eventually(lambda: sums.answers, what="a reveal")
            assert sums.calls.count("Advertise") == 1
            sums.over.set()

    lab.services = [(masks_pb2.DESCRIPTOR.services_by_name["MaskService"], _Late(sums))]
    lab.run(scenario)


class _Late:
    """A service whose steps may be exchanged after it was begun."""

    def __init__(self, sums: Sums) -> None:
        self._sums = sums

    def advertise(self, request: Any, caller: Caller) -> Any:
        return self._sums.advertise(request, caller)

    def share(self, request: Any, caller: Caller) -> Any:
        return self._sums.share(request, caller)

    def survivors(self, request: Any, caller: Caller) -> Any:
        return self._sums.survivors(request, caller)

    def reveal(self, request: Any, caller: Caller) -> Any:
        return self._sums.reveal(request, caller)


@pytest.mark.parametrize(
    ("lie", "word"),
    [
        (lies.swapped, "swapped_shares"), (lies.bent, "swapped_shares"), (lies.for_another, "foreign_shares"),
        (lies.twice, "repeated_shares"), (lies.from_a_stranger, "foreign_shares"), (lies.too_few, "too_few_sharers"),
    ],
)  # fmt: skip
def test_lying_boxes(
    lab: "Lab", sums: Sums, caplog: pytest.LogCaptureFixture, lie: Callable[[list[Box]], list[Box]], word: str
) -> None:
    sums.boxes_lie = lie

    async def scenario(lab: "Lab") -> None:
        lab.server.key = SERVER
        async with lab.client():
            lab.server.assign(task(lab, sums))
            await refused(lab, caplog, "mask_shares", word)
            assert sums.calls == ["Advertise", "Share"]
            assert lab.server.received == []

    lab.run(scenario)
    assert lab.states() == ["dropped"]


def _asked(lie: Callable[[Any], Survivors]) -> Callable[[Survivors], Survivors]:
    return lambda found: lie(SimpleNamespace(honest=found))


SETS: dict[str, tuple[Callable[[Survivors], Survivors], str]] = {
    "short": (lambda found: lies.signed(found, clients=found.clients[3:]), "short_set"),
    "foreign": (_asked(lies.foreign_set), "foreign_set"),
    "without me": (lambda found: lies.signed(found, clients=PEERS), "set_without_me"),
    "unsigned": (lambda found: replace(found, signature=bytes(64)), "unsigned_set"),
    "signed by another": (_asked(lies.set_signed_by_another), "unsigned_set"),
    "bent": (lambda found: replace(found, clients=found.clients[1:]), "unsigned_set"),
    "repeated": (_asked(lies.repeated_survivor), "repeated_survivor"),
    "of another attempt": (lambda found: lies.signed(found, transcript=bytes(32)), "replayed_set"),
    "of another group": (_asked(lies.set_of_another_group), "other_group"),
    "of other sharers": (lambda found: lies.signed(found, sharers=bytes(32)), "unequal_sharers"),
}


@pytest.mark.parametrize("lie", SETS)
def test_a_lying_set(lab: "Lab", sums: Sums, caplog: pytest.LogCaptureFixture, lie: str) -> None:
    sums.set_lie, word = SETS[lie]

    async def scenario(lab: "Lab") -> None:
        lab.server.key = SERVER
        async with lab.client():
            lab.server.assign(task(lab, sums))
            await refused(lab, caplog, "mask_set", word)
            assert sums.calls == ["Advertise", "Share", "Survivors"]

    lab.run(scenario)
    assert lab.states() == ["acknowledged"]


@pytest.mark.parametrize("gone", ["device-000", "device-007"])
def test_a_second_set_is_met_with_silence(lab: "Lab", sums: Sums, caplog: pytest.LogCaptureFixture, gone: str) -> None:
    """No call at all afterwards, not even a decline; the audit line alone says what happened."""

    async def scenario(lab: "Lab") -> None:
        lab.server.key = SERVER
        async with lab.client():
            lab.server.assign(task(lab, sums))
            await eventually(lambda: sums.answers, what="a reveal")
        sums.set_lie = lambda found: lies.signed(found, clients=tuple(who for who in EVERYBODY if who != gone))
        sums.calls.clear()
        async with lab.client():
            await eventually(lambda: audits(caplog), what="an audit line")
            await eventually(lambda: not rows(lab, "mask") and not lab.outbox(), what="secrets to go")
            # Another round's task is answered after whatever else was to be said.
            lab.server.assign(lab.server.task(VALUES, round=9))
            await eventually(lambda: lab.server.declines, what="the next decline")
            assert [(one.id.round, one.code) for one in lab.server.declines] == [(9, "policy_refused")]
            assert sums.calls == ["Survivors"]
            assert rows(lab, "revealed") == 1
        (line,) = audits(caplog)
        assert line.startswith("mask_second_set second_set: ")
        sums.calls.clear()
        async with lab.client():
            assert sums.calls == []

    lab.run(scenario)
    assert len(sums.answers) == 1


def test_the_same_set_again_gets_the_same_answer(lab: "Lab", sums: Sums) -> None:
    """Whoever was killed over its reveal, device or server, is to be helped on."""

    async def scenario(lab: "Lab") -> None:
        lab.server.key = SERVER
        async with lab.client():
            lab.server.assign(task(lab, sums))
            await eventually(lambda: sums.answers, what="a reveal")
        async with lab.client():
            await eventually(lambda: len(sums.answers) == 2, what="a reveal again")
            assert sums.answers[0] == sums.answers[1]
            assert rows(lab, "revealed") == 1
            sums.over.set()
            await eventually(lambda: not rows(lab, "mask"), what="secrets to go")

    lab.run(scenario)


@pytest.mark.parametrize(("attempt", "word"), [(2, "added_before"), (1, "replayed_attempt")])
def test_another_attempt_after_a_reveal(
    lab: "Lab", sums: Sums, caplog: pytest.LogCaptureFixture, attempt: int, word: str
) -> None:
    async def scenario(lab: "Lab") -> None:
        lab.server.key = SERVER
        async with lab.client():
            lab.server.assign(task(lab, sums))
            await eventually(lambda: sums.answers, what="a reveal")
            sums.over.set()
            await eventually(lambda: not rows(lab, "mask"), what="the end of the round")
            sums.calls.clear()
            lab.server.assign(task(lab, sums, attempt=attempt))
            await eventually(lambda: lab.server.declines, what="a decline")
            assert [one.code for one in lab.server.declines] == ["mask_attempt_spent"]
            await eventually(lambda: not lab.outbox(), what="the update to go")
            assert (sums.calls, rows(lab, "mask"), len(lab.server.received)) == ([], 0, 1)
        (line,) = audits(caplog)
        assert line.startswith(f"mask_attempt_spent {word}: ")

    lab.run(scenario)


def test_a_masked_vector_above_the_owners_limit_is_not_made(lab: "Lab", sums: Sums) -> None:
    """4000 bytes of model are allowed, and 4000 of a masked update; one byte less is not."""
    text = lab.home.policy.read_text()

    async def scenario(lab: "Lab") -> None:
        lab.server.key = SERVER
        async with lab.client():
            found = task(lab, sums)
            lab.home.policy.write_text(text + "max_payload_bytes = 4000\n")
            wide = TaskAssignment()
            wide.CopyFrom(found)
            wide.mask.entries += 1
            lab.server.assign(lab.server.sign(wide))
            await eventually(lambda: lab.server.declines, what="a decline")
            assert lab.server.declines[0].code == "policy_refused"
            assert "the masked update has 4004 bytes" in lab.server.declines[0].reason

    lab.run(scenario)
    assert sums.calls == []
