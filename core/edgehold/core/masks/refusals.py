"""What a device refuses before it gives a share away: each with one word for the audit log and a sentence that says why.

A server that lies about group, model or survivors gets an error here instead of the shares that unmask a single update.
"""

from collections.abc import Sequence
from dataclasses import fields

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edgehold.core.errors import AdvertRefused, RosterRefused, SetRefused, SharesRefused, TermsRefused, WrongShape
from edgehold.core.masks import draw, members, sealing
from edgehold.core.masks.messages import Advert, Box, Roster, Survivors, sharers_digest
from edgehold.core.masks.terms import CEILING, FLOOR, Terms

_WORDS = {
    "plan_digest": "other_plan", "base_digest": "other_model", "run": "other_run", "round": "other_round",
    "attempt": "other_attempt", "nonce": "other_nonce", "federation": "other_federation", "draw_commitment": "other_draw",
}  # fmt: skip


def roster(found: Roster, terms: Terms, mine: Advert, roots: Sequence[x509.Certificate], now_s: float) -> None:
    """Return if the group is one to share secrets with."""
    _terms(found.terms, terms)
    ids = found.ids
    if len(ids) < FLOOR:
        raise RosterRefused(f"a group of {len(ids)}; at least {FLOOR} are needed to hide among", reason="group_too_small")
    if len(ids) > CEILING:
        raise RosterRefused(f"a group of {len(ids)}; at most {CEILING} are allowed", reason="group_too_large")
    if len(set(ids)) != len(ids):
        raise RosterRefused("the group names a client twice: its members are fewer than it seems", reason="repeated_id")
    if list(ids) != sorted(ids):
        raise RosterRefused("the group is not in the order of ids, which places of shares follow", reason="unordered_group")
    if [one for one in found.members if one.client == mine.client] != [mine]:
        raise RosterRefused("the group does not hold this device with the keys it sent", reason="not_my_advert")
    keys = [key for one in found.members for key in (one.mask_key, one.seal_key)]
    if len(set(keys)) != len(keys) or len({one.signing_key for one in found.members}) != len(ids):
        raise RosterRefused("the group holds one key twice: two of its members are one", reason="repeated_key")
    for one in found.members:
        word, why = members.fault(one, terms, roots, now_s)
        if word:
            raise AdvertRefused(why, reason=word)
    _drawn(found)


def _terms(found: Terms, terms: Terms) -> None:
    for field in fields(Terms):
        if getattr(found, field.name) != getattr(terms, field.name):
            raise TermsRefused(
                f"the group's {field.name} is another than that of the task this device works on",
                reason=_WORDS.get(field.name, "other_form"),
            )


def _drawn(found: Roster) -> None:
    entered = {one.client: one.advert for one in found.everyone if one.advert}
    if len({one.client for one in found.everyone}) != len(found.everyone):
        raise RosterRefused("the draw names a client twice", reason="not_drawn")
    if draw.commitment(found.value, found.everyone) != found.terms.draw_commitment:
        raise RosterRefused(
            "the value that groups were drawn from is not the one committed before the adverts", reason="other_draw_value"
        )
    if any(entered.get(one.client) != one.digest for one in found.members):
        raise RosterRefused("the group's adverts are not those that groups were drawn from", reason="not_drawn")
    if found.ids not in draw.groups(found.value, found.everyone, found.terms.least, found.terms.most):
        raise RosterRefused("the group is not one that the draw gives", reason="not_drawn")


def boxes(found: Sequence[Box], group: Roster, me: str, seal_private: bytes) -> dict[str, tuple[int, int]]:
    """Shares by owner, (self-seed, mask key), of everybody who sealed some for this device."""
    shares: dict[str, tuple[int, int]] = {}
    digest, transcript, own = group.digest, group.terms.transcript, sealing.loaded(seal_private)
    publics = {one.client: one.seal_key for one in group.members}
    for box in found:
        who = repr(box.sender[:64])
        if box.receiver != me or box.sender == me or box.sender not in publics:
            raise SharesRefused(
                f"a box from {who} for {box.receiver[:64]!r}, which no member sealed for {me!r}", reason="foreign_shares"
            )
        if box.sender in shares:
            raise SharesRefused(f"two boxes from {who}", reason="repeated_shares")
        key = sealing.box_key(own, publics[box.sender], transcript, digest, box.sender, me)
        try:
            pair = sealing.opened(key, box.sealed)
        except WrongShape as error:
            raise SharesRefused(f"the box from {who} holds no shares: {error.message}", reason="malformed_shares") from None
        if pair is None:
            raise SharesRefused(
                f"the box from {who} was not sealed by it for this device in this attempt", reason="swapped_shares"
            )
        shares[box.sender] = pair
    if len(shares) < group.threshold:
        raise SharesRefused(
            f"{len(shares) + 1} of {len(publics)} members sent shares; {group.threshold + 1} are needed",
            reason="too_few_sharers",
        )
    return shares


def survivors(found: Survivors, group: Roster, sharers: tuple[str, ...], me: str, server_key: bytes) -> None:
    """Return if the set may be unmasked as far as it alone can tell; whether it is the first is for the journal to say."""
    try:
        Ed25519PublicKey.from_public_bytes(server_key).verify(found.signature, found.signing_input())
    except (InvalidSignature, ValueError):
        raise SetRefused("the set of survivors is not signed by the server", reason="unsigned_set") from None
    if found.transcript != group.terms.transcript:
        raise SetRefused("the set of survivors is for another attempt", reason="replayed_set")
    if found.roster != group.digest:
        raise SetRefused("the set of survivors is for another group", reason="other_group")
    if found.sharers != sharers_digest(found.roster, sharers):
        raise SetRefused(
            "the set of survivors counts on masks between others than this device knows of", reason="unequal_sharers"
        )
    ids = found.clients
    if list(ids) != sorted(set(ids)):
        raise SetRefused("the set of survivors repeats a client or is not in order", reason="repeated_survivor")
    if not set(ids) <= set(sharers):
        raise SetRefused("the set of survivors names somebody outside the group", reason="foreign_set")
    if me not in ids:
        raise SetRefused(
            "the set of survivors leaves this device out: its own mask would be taken off", reason="set_without_me"
        )
    if len(ids) < group.threshold + 1:
        raise SetRefused(
            f"{len(ids)} survivors; at least {group.threshold + 1} of {len(group.members)} are needed", reason="short_set"
        )
