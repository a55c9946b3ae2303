"""Messages of masked sums as records, and back: lengths and names checked, nothing else believed."""

from collections.abc import Iterable, Mapping

from edgehold.core.errors import WrongShape
from edgehold.core.masks.draw import MOST_ASKED, Entrant
from edgehold.core.masks.messages import Advert, Box, Reveal, Roster, Survivors
from edgehold.core.masks.terms import CEILING, Terms
from edgehold.proto.strict import exactly, name
from edgehold.proto.v1.masks_pb2 import (
    MaskAdvert,
    MaskBox,
    MaskEntrant,
    MaskRoster,
    MaskShare,
    MaskSurvivors,
    RevealRequest,
)

CERTIFICATE_LIMIT = 4 << 10
_BOX, _SHARE = 82, 33


def advert_from(message: MaskAdvert) -> Advert:
    """An advert; who it is from is for its certificate to say."""
    if len(message.certificate) > CERTIFICATE_LIMIT:
        raise WrongShape(f"certificate of {len(message.certificate)} bytes; at most {CERTIFICATE_LIMIT} are accepted")
    return Advert(
        client=name(message.client_id, "client id"),
        transcript=exactly(message.transcript, 32, "transcript"),
        mask_key=exactly(message.mask_key, 32, "mask key"),
        seal_key=exactly(message.seal_key, 32, "seal key"),
        seed_commitment=exactly(message.seed_commitment, 32, "seed commitment"),
        certificate=message.certificate,
        signing_key=exactly(message.signing_key, 32, "signing key"),
        signature=exactly(message.signature, 64, "signature"),
    )


def advert_to(advert: Advert) -> MaskAdvert:
    """Inverse of `advert_from`."""
    return MaskAdvert(
        client_id=advert.client,
        transcript=advert.transcript,
        mask_key=advert.mask_key,
        seal_key=advert.seal_key,
        seed_commitment=advert.seed_commitment,
        certificate=advert.certificate,
        signing_key=advert.signing_key,
        signature=advert.signature,
    )


def roster_from(message: MaskRoster, terms: Terms) -> Roster:
    """A group, of the terms that the task has."""
    if len(message.everyone) > MOST_ASKED or len(message.members) > CEILING:
        raise WrongShape(
            f"a roster of {len(message.members)} members and {len(message.everyone)} who were asked; at most {CEILING} and "
            f"{MOST_ASKED} are possible"
        )
    everyone = []
    for one in message.everyone:
        if one.advert_digest:
            exactly(one.advert_digest, 32, "advert digest")
        everyone.append(Entrant(name(one.client_id, "client id"), one.company, one.advert_digest))
    members = tuple(advert_from(one) for one in message.members)
    return Roster(terms, exactly(message.draw_value, 32, "draw value"), tuple(everyone), members)


def roster_to(roster: Roster) -> MaskRoster:
    """Inverse of `roster_from`."""
    return MaskRoster(
        draw_value=roster.value,
        everyone=[MaskEntrant(client_id=o.client, company=o.company, advert_digest=o.advert) for o in roster.everyone],
        members=[advert_to(one) for one in roster.members],
    )


def boxes_from(messages: Iterable[MaskBox]) -> tuple[Box, ...]:
    """Sealed shares, at most one for each other member of a group."""
    found = tuple(
        Box(name(one.sender, "sender"), name(one.receiver, "receiver"), exactly(one.sealed, _BOX, "sealed shares"))
        for one in messages
    )
    if len(found) >= CEILING:
        raise WrongShape(f"{len(found)} boxes; a group has at most {CEILING} members")
    return found


def boxes_to(boxes: Iterable[Box]) -> list[MaskBox]:
    """Inverse of `boxes_from`."""
    return [MaskBox(sender=box.sender, receiver=box.receiver, sealed=box.sealed) for box in boxes]


def survivors_from(message: MaskSurvivors) -> Survivors:
    """A set of survivors."""
    if len(message.clients) > CEILING:
        raise WrongShape(f"{len(message.clients)} survivors; a group has at most {CEILING} members")
    return Survivors(
        exactly(message.transcript, 32, "transcript"),
        exactly(message.roster, 32, "roster digest"),
        exactly(message.sharers, 32, "digest of sharers"),
        tuple(name(one, "survivor") for one in message.clients),
        exactly(message.signature, 64, "signature"),
    )


def survivors_to(survivors: Survivors) -> MaskSurvivors:
    """Inverse of `survivors_from`."""
    return MaskSurvivors(
        transcript=survivors.transcript,
        roster=survivors.roster,
        sharers=survivors.sharers,
        clients=survivors.clients,
        signature=survivors.signature,
    )


def reveal_from(message: RevealRequest, client: str) -> Reveal:
    """What a client reveals."""
    digest = exactly(message.set_digest, 32, "digest of the set")
    return Reveal(client, digest, _shares(message.seeds, "self-seed"), _shares(message.masks, "mask key"))


def reveal_to(answer: Reveal, request: RevealRequest) -> RevealRequest:
    """`request`, which names the task, with the answer in it."""
    request.set_digest = answer.set_digest
    request.seeds.extend(_said(answer.seeds))
    request.masks.extend(_said(answer.masks))
    return request


def _shares(messages: Iterable[MaskShare], what: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for one in messages:
        if name(one.owner, "owner") in found:
            raise WrongShape(f"two shares of the {what} of {one.owner!r}; one is expected")
        found[one.owner] = exactly(one.share, _SHARE, f"share of a {what}")
        if len(found) >= CEILING:
            raise WrongShape(f"more than {CEILING - 1} shares of a {what}; a group has at most {CEILING} members")
    return found


def _said(shares: Mapping[str, bytes]) -> list[MaskShare]:
    return [MaskShare(owner=owner, share=share) for owner, share in sorted(shares.items())]
