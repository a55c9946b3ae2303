"""Lying servers, each by name: the device refuses, says why in one word, and has given no share away."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.masked import (
    NOW_S,
    SERVER,
    SERVER_KEY,
    VALUE,
    Memory,
    Played,
    advertised,
    client,
    identity,
    masked,
    names,
    revealed,
    roots,
    shared,
    terms,
    uploaded,
)

from edgehold.core.errors import (
    AdvertRefused,
    AttemptSpent,
    MaskRefused,
    OutOfStep,
    RosterRefused,
    SecondSet,
    SetRefused,
    SharesRefused,
    TermsRefused,
)  # fmt: skip
from edgehold.core.masks import draw, sealing
from edgehold.core.masks.client import MaskClient
from edgehold.core.masks.draw import Entrant
from edgehold.core.masks.messages import Advert, Box, Reveal, Roster, Survivors, sharers_digest

COUNT = 9
ME = "device-004"


def told(members: tuple[Advert, ...], like: Roster, **changed: Any) -> Roster:
    """A roster in which these adverts are the ones that groups were drawn from, as a server that lies well would have it."""
    seen = {one.client: one.digest for one in members}
    everyone = tuple(Entrant(one.client, one.company, seen.get(one.client, b"")) for one in like.everyone)
    return replace(like, everyone=everyone, members=members, **changed)


def resigned(advert: Advert, who: str, **changed: Any) -> Advert:
    """An advert with something changed, signed by `who`, who is a client."""
    mine = identity(who)
    bare = replace(advert, **changed)
    return replace(bare, signature=mine.key.sign(bare.signing_input()))


def with_member(roster: Roster, at: int, advert: Advert) -> Roster:
    return told(tuple(advert if place == at else one for place, one in enumerate(roster.members)), roster)


# Rosters: each of these gets the honest one and gives a lie.


def roster_below_eight(played: Played) -> Roster:
    roster = played.group.roster
    return told(tuple(one for one in roster.members if one.client not in ("device-000", "device-001")), roster)


def roster_above_64(played: Played) -> Roster:
    roster = played.group.roster
    return told(roster.members * 8, roster)


def unordered_group(played: Played) -> Roster:
    """Places of shares would differ between members."""
    roster = played.group.roster
    return told(roster.members[::-1], roster)


def repeated_id(played: Played) -> Roster:
    roster = played.group.roster
    return with_member(roster, 1, roster.members[0])


def repeated_key(played: Played) -> Roster:
    roster = played.group.roster
    twin = resigned(roster.members[1], roster.members[1].client, mask_key=roster.members[0].mask_key)
    return with_member(roster, 1, twin)


def repeated_signing_key(played: Played) -> Roster:
    roster = played.group.roster
    twin = replace(roster.members[1], signing_key=roster.members[0].signing_key)
    return with_member(roster, 1, twin)


def roster_without_me(played: Played) -> Roster:
    roster = played.group.roster
    return told(tuple(one for one in roster.members if one.client != ME), roster)


def my_keys_exchanged(played: Played) -> Roster:
    roster = played.group.roster
    other = client(ME, played.terms, Memory(), "other keys").advert
    return with_member(roster, 4, other)


def forged_certificate(played: Played) -> Roster:
    roster = played.group.roster
    victim = roster.members[0].client
    fake = identity(victim, number=1)  # of an authority of the server's own
    bare = replace(roster.members[0], certificate=fake.certificate, signing_key=fake.public)
    return with_member(roster, 0, replace(bare, signature=fake.key.sign(bare.signing_input())))


def certificate_of_another(played: Played) -> Roster:
    """An honest client's certificate under a name that is not its."""
    roster = played.group.roster
    mole = identity("mole")
    bare = replace(roster.members[0], certificate=mole.certificate, signing_key=mole.public)
    return with_member(roster, 0, replace(bare, signature=mole.key.sign(bare.signing_input())))


def key_of_another(played: Played) -> Roster:
    """The right certificate beside a signing key that it does not name."""
    roster = played.group.roster
    own = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    bare = replace(roster.members[0], signing_key=own.public_key().public_bytes_raw())
    return with_member(roster, 0, replace(bare, signature=own.sign(bare.signing_input())))


def forged_signature(played: Played) -> Roster:
    roster = played.group.roster
    return with_member(roster, 0, replace(roster.members[0], mask_key=b"\x05" * 32))


def expired_certificate(played: Played) -> Roster:
    roster = played.group.roster
    stale = identity(roster.members[0].client, life_s=-1.0)
    return with_member(roster, 0, replace(roster.members[0], certificate=stale.certificate))


def weak_key(played: Played) -> Roster:
    """A key of low order, with which everybody shares the secret zero."""
    roster = played.group.roster
    return with_member(roster, 0, resigned(roster.members[0], roster.members[0].client, mask_key=bytes(32)))


def other_model(played: Played) -> Roster:
    return replace(played.group.roster, terms=replace(played.terms, base_digest=b"x" * 32))


def other_plan(played: Played) -> Roster:
    return replace(played.group.roster, terms=replace(played.terms, plan_digest=b"x" * 32))


def other_form(played: Played) -> Roster:
    return replace(played.group.roster, terms=replace(played.terms, largest=1))


def unequal_transcripts(played: Played) -> Roster:
    """Others were given another model: their adverts are for it, and only mine is for mine."""
    theirs = advertised(COUNT, base_digest=b"x" * 32).group.roster
    mine = played.group.roster
    return told(tuple(one if one.client == ME else theirs.member(one.client) for one in mine.members), mine)


def replayed_roster(played: Played) -> Roster:
    """The one of the attempt before."""
    return advertised(COUNT, attempt=2).group.roster


def replayed_adverts(played: Played) -> Roster:
    """Old keys of others in a roster of this attempt."""
    old = advertised(COUNT, attempt=2).group.roster
    mine = played.group.roster
    return told(tuple(one if one.client == ME else old.member(one.client) for one in mine.members), mine)


def other_draw_value(played: Played) -> Roster:
    return replace(played.group.roster, value=b"v" * 32)


def company_of_its_choice(played: Played) -> Roster:
    """Marks that steer the draw, invented after the keys were known."""
    roster = played.group.roster
    everyone = tuple(replace(one, company=1) if one.client == ME else one for one in roster.everyone)
    return replace(roster, everyone=everyone)


def group_of_its_choice(played: Played) -> Roster:
    """One of the devices is left out though it is in the draw."""
    roster = played.group.roster
    return replace(roster, members=roster.members[1:])


def advert_beside_the_draw(played: Played) -> Roster:
    roster = played.group.roster
    other = client("device-000", played.terms, Memory(), "other keys").advert
    return replace(roster, members=(other, *roster.members[1:]))


ROSTERS: dict[Callable[[Played], Roster], tuple[type[MaskRefused], str]] = {
    roster_below_eight: (RosterRefused, "group_too_small"),
    roster_above_64: (RosterRefused, "group_too_large"),
    unordered_group: (RosterRefused, "unordered_group"),
    repeated_id: (RosterRefused, "repeated_id"),
    repeated_key: (RosterRefused, "repeated_key"),
    repeated_signing_key: (RosterRefused, "repeated_key"),
    roster_without_me: (RosterRefused, "not_my_advert"),
    my_keys_exchanged: (RosterRefused, "not_my_advert"),
    forged_certificate: (AdvertRefused, "forged_certificate"),
    certificate_of_another: (AdvertRefused, "foreign_certificate"),
    key_of_another: (AdvertRefused, "foreign_key"),
    forged_signature: (AdvertRefused, "forged_signature"),
    expired_certificate: (AdvertRefused, "expired_certificate"),
    weak_key: (AdvertRefused, "weak_key"),
    other_model: (TermsRefused, "other_model"),
    other_plan: (TermsRefused, "other_plan"),
    other_form: (TermsRefused, "other_form"),
    unequal_transcripts: (AdvertRefused, "unequal_transcripts"),
    replayed_roster: (TermsRefused, "other_attempt"),
    replayed_adverts: (AdvertRefused, "unequal_transcripts"),
    other_draw_value: (RosterRefused, "other_draw_value"),
    company_of_its_choice: (RosterRefused, "other_draw_value"),
    group_of_its_choice: (RosterRefused, "not_drawn"),
    advert_beside_the_draw: (RosterRefused, "not_drawn"),
}


@pytest.mark.parametrize("lie", ROSTERS, ids=lambda lie: lie.__name__)
def test_a_lying_roster_gets_no_shares(lie: Callable[[Played], Roster]) -> None:
    error, word = ROSTERS[lie]
    count = 10 if lie in (group_of_its_choice,) else COUNT
    played = advertised(count)
    me = played.clients[ME]
    before = me.dump()
    with pytest.raises(error) as caught:
        me.share(lie(played), NOW_S)
    assert (type(caught.value), caught.value.reason) == (error, word)
    assert caught.value.audit.startswith(f"{error.code} {word}: ")
    assert me.dump() == before
    assert len(me.share(played.group.roster, NOW_S)) == count - 1  # the honest one is still welcome


def test_a_second_roster_of_the_attempt_gets_no_shares() -> None:
    """Honest in every part, but with somebody less: the first one stands."""
    played = advertised(COUNT)
    me = played.clients[ME]
    boxes = me.share(played.group.roster, NOW_S)
    fewer = told(tuple(one for one in played.group.roster.members if one.client != "device-008"), played.group.roster)
    with pytest.raises(OutOfStep) as caught:
        me.share(fewer, NOW_S)
    assert caught.value.reason == "second_roster"
    assert me.share(played.group.roster, NOW_S) == boxes


def test_a_draw_that_names_a_client_twice_gets_no_shares() -> None:
    """Committed to as it is: two marks of company for one client, of which either could be meant."""
    invited = [*(Entrant(who) for who in names(COUNT)), Entrant(ME, 1)]
    how = terms(invited)
    clients = {who: client(who, how, Memory()) for who in names(COUNT)}
    members = tuple(one.advert for one in clients.values())
    everyone = tuple(Entrant(one.client, 0, one.digest) for one in members)
    with pytest.raises(RosterRefused) as caught:
        clients[ME].share(Roster(how, VALUE, (*everyone, Entrant(ME, 1)), members), NOW_S)
    assert caught.value.reason == "not_drawn"


# Boxes.


def swapped(boxes: list[Box]) -> list[Box]:
    first, second, *rest = boxes
    return [replace(first, sealed=second.sealed), replace(second, sealed=first.sealed), *rest]


def bent(boxes: list[Box]) -> list[Box]:
    first = boxes[0]
    return [replace(first, sealed=bytes([first.sealed[0] ^ 1]) + first.sealed[1:]), *boxes[1:]]


def for_another(boxes: list[Box]) -> list[Box]:
    return [replace(boxes[0], receiver="device-005"), *boxes[1:]]


def from_a_stranger(boxes: list[Box]) -> list[Box]:
    return [*boxes, replace(boxes[0], sender="mole")]


def from_myself(boxes: list[Box]) -> list[Box]:
    return [*boxes, replace(boxes[0], sender=ME)]


def twice(boxes: list[Box]) -> list[Box]:
    return [*boxes, boxes[0]]


def too_few(boxes: list[Box]) -> list[Box]:
    return boxes[:5]  # of 9 members at least 7 have to share


@pytest.mark.parametrize(
    ("lie", "word"),
    [
        (swapped, "swapped_shares"), (bent, "swapped_shares"), (for_another, "foreign_shares"), (twice, "repeated_shares"),
        (from_a_stranger, "foreign_shares"), (from_myself, "foreign_shares"), (too_few, "too_few_sharers"),
    ],
)  # fmt: skip
def test_boxes_that_were_not_sealed_for_me_are_refused(lie: Callable[[list[Box]], list[Box]], word: str) -> None:
    played = advertised(COUNT)
    for who, one in played.clients.items():
        played.group.share(who, one.share(played.group.roster, NOW_S))
    played.group.close_shares()
    me, honest = played.clients[ME], list(played.group.boxes_for(ME))
    before = me.dump()
    with pytest.raises(SharesRefused) as caught:
        me.receive(lie(honest))
    assert caught.value.reason == word
    assert me.dump() == before
    me.receive(honest)
    with pytest.raises(OutOfStep) as again:
        me.receive(honest[:-1])
    assert again.value.reason == "second_shares"


def test_a_box_without_shares_in_it_is_refused() -> None:
    """Sealed by its sender indeed, but what is inside is above the prime."""
    played = advertised(COUNT)
    roster = played.group.roster
    boxes = {who: one.share(roster, NOW_S) for who, one in played.clients.items()}
    found = [box for sent in boxes.values() for box in sent if box.receiver == ME]
    liar = played.clients["device-000"]._state
    key = sealing.box_key(
        sealing.loaded(liar.seal_private), roster.member(ME).seal_key, roster.terms.transcript, roster.digest, "device-000", ME
    )  # fmt: skip
    bad = sealing.seal(key, (1 << 264) - 1, 1)
    with pytest.raises(SharesRefused) as caught:
        played.clients[ME].receive([replace(found[0], sealed=bad), *found[1:]])
    assert caught.value.reason == "malformed_shares"


# Sets of survivors.


@dataclass
class Asked:
    """A device that has sent its vector, and the honest set."""

    played: Played
    me: MaskClient
    honest: Survivors
    journal: Memory


@pytest.fixture
def asked() -> Asked:
    played = advertised(COUNT)
    shared(played)
    uploaded(played, silent=["device-008"])
    return Asked(played, played.clients[ME], played.group.freeze(SERVER.sign), played.journals[ME])


def signed(found: Survivors, **changed: Any) -> Survivors:
    bare = replace(found, **changed)
    return replace(bare, signature=SERVER.sign(bare.signing_input()))


def short_set(asked: Asked) -> Survivors:
    return signed(asked.honest, clients=asked.honest.clients[2:])


def foreign_set(asked: Asked) -> Survivors:
    return signed(asked.honest, clients=tuple(sorted((*asked.honest.clients, "mole"))))


def set_without_me(asked: Asked) -> Survivors:
    return signed(asked.honest, clients=tuple(who for who in names(COUNT) if who != ME))


def unsigned_set(asked: Asked) -> Survivors:
    return replace(asked.honest, signature=b"")


def set_signed_by_another(asked: Asked) -> Survivors:
    return replace(asked.honest, signature=identity("mole").key.sign(asked.honest.signing_input()))


def bent_set(asked: Asked) -> Survivors:
    return replace(asked.honest, clients=names(COUNT))


def repeated_survivor(asked: Asked) -> Survivors:
    return signed(asked.honest, clients=(*asked.honest.clients[:6], *asked.honest.clients[5:6], *asked.honest.clients[6:]))


def replayed_set(asked: Asked) -> Survivors:
    return signed(asked.honest, transcript=advertised(COUNT, attempt=2).terms.transcript)


def set_of_another_group(asked: Asked) -> Survivors:
    return signed(asked.honest, roster=b"g" * 32)


def unequal_sharers(asked: Asked) -> Survivors:
    return signed(asked.honest, sharers=sharers_digest(asked.honest.roster, names(COUNT - 1)))


@pytest.mark.parametrize(
    ("lie", "word"),
    [
        (short_set, "short_set"), (foreign_set, "foreign_set"), (set_without_me, "set_without_me"),
        (unsigned_set, "unsigned_set"), (set_signed_by_another, "unsigned_set"), (bent_set, "unsigned_set"),
        (repeated_survivor, "repeated_survivor"), (replayed_set, "replayed_set"), (set_of_another_group, "other_group"),
        (unequal_sharers, "unequal_sharers"),
    ],
)  # fmt: skip
def test_a_lying_set_gets_no_shares(asked: Asked, lie: Callable[[Asked], Survivors], word: str) -> None:
    with pytest.raises(SetRefused) as caught:
        asked.me.reveal(lie(asked))
    assert caught.value.reason == word
    assert type(caught.value) is SetRefused  # not the one that is met with silence
    assert not asked.journal.lines
    assert asked.me.reveal(asked.honest).client == ME


def second_set(asked: Asked) -> Survivors:
    return signed(asked.honest, clients=names(COUNT))


def overlapping_set(asked: Asked) -> Survivors:
    """Somebody else vanished: from the two sums the difference of two devices could be read."""
    return signed(asked.honest, clients=tuple(who for who in names(COUNT) if who != "device-007"))


@pytest.mark.parametrize("lie", [second_set, overlapping_set])
@pytest.mark.parametrize("killed", ["never", "after the answer", "with a state from before it"])
def test_a_second_set_gets_silence(asked: Asked, lie: Callable[[Asked], Survivors], killed: str) -> None:
    before = asked.me.dump()
    answer = asked.me.reveal(asked.honest)
    me = asked.me
    if killed != "never":
        state = before if "before" in killed else me.dump()
        me = MaskClient.restore(state, roots=roots(), server_key=SERVER_KEY, journal=asked.journal)
    with pytest.raises(SecondSet) as caught:
        me.reveal(lie(asked))
    assert caught.value.reason == "second_set"
    assert me.reveal(asked.honest) == answer  # the first one again
    assert len(asked.journal.lines) == 1


def kinds(answers: list[Reveal]) -> dict[str, set[str]]:
    """Which kinds of shares were given of each device."""
    found: dict[str, set[str]] = {}
    for answer in answers:
        for kind in ("seeds", "masks"):
            for who in getattr(answer, kind):
                found.setdefault(who, set()).add(kind)
    return found


def test_never_both_secrets_of_one_device(asked: Asked) -> None:
    """Whatever sets each device is asked for, in any order, it gives one share of every other device at most."""
    lies = [short_set, foreign_set, set_without_me, second_set, overlapping_set, unequal_sharers]
    for who in names(COUNT - 1):
        answers, one = [], asked.played.clients[who]
        for found in (*(lie(asked) for lie in lies), asked.honest, *(lie(asked) for lie in lies), asked.honest):
            try:
                answers.append(one.reveal(found))
            except MaskRefused:
                continue
        assert len(answers) >= 2
        assert all(len(kind) == 1 for kind in kinds(answers).values())


def test_no_shares_before_the_vector_was_sent() -> None:
    played = advertised(COUNT)
    shared(played)
    uploaded(played, silent=[ME])
    found = signed(played.group.freeze(SERVER.sign), clients=names(COUNT))
    with pytest.raises(OutOfStep) as caught:
        played.clients[ME].reveal(found)
    assert caught.value.reason == "not_masked"


# Attempts.


def test_another_attempt_of_a_round_that_was_added_up_is_refused(asked: Asked) -> None:
    """The sums of two attempts, one device less in one of them, would give that device's update."""
    journals = asked.played.journals
    late = client(ME, replace(asked.played.terms, attempt=2), journals[ME])  # begun before the first attempt was answered
    asked.me.reveal(asked.honest)
    with pytest.raises(AttemptSpent) as caught:
        client(ME, replace(asked.played.terms, attempt=3), journals[ME])
    assert caught.value.reason == "added_before"
    with pytest.raises(AttemptSpent) as caught:
        client(ME, replace(asked.played.terms, nonce=b"o" * 32), journals[ME], renewed=True)
    assert caught.value.reason == "replayed_attempt"
    client(ME, replace(asked.played.terms, attempt=3), journals[ME], renewed=True)
    client(ME, replace(asked.played.terms, round=4), journals[ME])

    others = {who: client(who, replace(asked.played.terms, attempt=2), Memory()) for who in names(COUNT) if who != ME}
    again = advertised(COUNT, attempt=2, journals=None)
    again.clients.update(others | {ME: late})
    roster = told(tuple(again.clients[who].advert for who in names(COUNT)), again.group.roster)
    played = replace_group(again, roster)
    shared(played)
    uploaded(played)
    with pytest.raises(AttemptSpent):
        late.reveal(played.group.freeze(SERVER.sign))


def replace_group(played: Played, roster: Roster) -> Played:
    from edgehold.core.masks.group import MaskGroup

    return replace(played, group=MaskGroup(roster), uploads={})


def test_terms_that_make_no_sum_are_refused() -> None:
    for changed in ({"largest": 4}, {"bits": 7}, {"entries": 0}, {"entries": (64 << 20) + 1}, {"least": 7}, {"most": 65},
                    {"cipher": "rot13"}, {"margin": 40}):  # fmt: skip
        with pytest.raises(TermsRefused) as caught:
            client(ME, terms(names(COUNT), **changed), Memory())
        assert caught.value.reason == "impossible_terms"


def test_a_vector_is_masked_once() -> None:
    """Two vectors under the same masks would show their difference."""
    played = advertised(COUNT)
    shared(played)
    uploaded(played)
    with pytest.raises(OutOfStep) as caught:
        masked(played.clients[ME], played.vectors[ME])
    assert caught.value.reason == "mask_twice"
    revealed(played)


def test_the_draw_is_fixed_before_the_adverts() -> None:
    asked = [Entrant(who) for who in names(COUNT)]
    assert draw.commitment(VALUE, asked) == draw.commitment(VALUE, asked[::-1])
    assert draw.commitment(VALUE, asked) != draw.commitment(VALUE, asked[1:])
    assert draw.commitment(VALUE, asked) != draw.commitment(b"v" * 32, asked)
