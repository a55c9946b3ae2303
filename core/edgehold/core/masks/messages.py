"""What travels, as records: adverts, rosters, boxes, survivor sets, reveals. How they become protobuf is the wire's business.

Lists of members are in ascending order of ids (node order). The place of a member, from 1, is where its shares stand.
"""

import hashlib
from dataclasses import dataclass, field

from edgehold.core.manifest import signing_input
from edgehold.core.masks.draw import Entrant
from edgehold.core.masks.terms import Terms, threshold


@dataclass(frozen=True, slots=True)
class Advert:
    """Step 1: two fresh X25519 public keys of a client and a commitment to its self-seed, for one attempt.

    certificate: DER, carries the fingerprint of signing_key (Ed25519, raw). signature: over `signing_input`.
    """

    client: str
    transcript: bytes
    mask_key: bytes
    seal_key: bytes
    seed_commitment: bytes
    certificate: bytes
    signing_key: bytes
    signature: bytes = b""

    def signing_input(self) -> bytes:
        """Bytes to sign."""
        keys = (self.mask_key, self.seal_key, self.seed_commitment)
        return signing_input("mask advert v1", [self.transcript, self.client, *keys])

    @property
    def digest(self) -> bytes:
        """Names the advert; signature and certificate could be renewed without a change of keys and are not in it."""
        return hashlib.sha256(self.signing_input()).digest()


def seed_commitment(seed: bytes, transcript: bytes, client: str) -> bytes:
    """Binds a client to the self-seed it shares, so that a wrong share shows. It hides the seed: that is 32 random bytes."""
    return hashlib.sha256(signing_input("mask seed v1", [transcript, client, seed])).digest()


@dataclass(frozen=True, slots=True)
class Roster:
    """Step 2: a group and how it was drawn. value: what `terms.draw_commitment` commits to; everyone: all who were asked."""

    terms: Terms
    value: bytes
    everyone: tuple[Entrant, ...]
    members: tuple[Advert, ...]

    @property
    def digest(self) -> bytes:
        """32 bytes that name the group with all its keys; bound into every mask key and every box."""
        parts: list[bytes | str | int] = [self.terms.transcript]
        for one in self.members:
            parts += [one.client, one.digest]
        return hashlib.sha256(signing_input("mask roster v1", parts)).digest()

    @property
    def ids(self) -> tuple[str, ...]:
        """Members' ids."""
        return tuple(one.client for one in self.members)

    @property
    def threshold(self) -> int:
        """Shares that give a secret back."""
        return threshold(len(self.members))

    def place(self, client: str) -> int:
        """Where a member's shares stand."""
        return self.ids.index(client) + 1

    def member(self, client: str) -> Advert:
        """A member's advert; `KeyError` for others."""
        for one in self.members:
            if one.client == client:
                return one
        raise KeyError(client)


@dataclass(frozen=True, slots=True)
class Box:
    """A pair of shares, sealed by its sender for its receiver."""

    sender: str
    receiver: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Survivors:
    """Step 4: whose vectors are added. sharers: digest of those who sent shares; clients: a subset of them."""

    transcript: bytes
    roster: bytes
    sharers: bytes
    clients: tuple[str, ...]
    signature: bytes = b""

    def signing_input(self) -> bytes:
        """Bytes the server signs."""
        return signing_input("mask survivors v1", [self.transcript, self.roster, self.sharers, *self.clients])

    @property
    def digest(self) -> bytes:
        """Names the set; what a device journals before it answers."""
        return hashlib.sha256(self.signing_input()).digest()


def sharers_digest(roster: bytes, sharers: tuple[str, ...]) -> bytes:
    """Names the members between whom masks are laid."""
    return hashlib.sha256(signing_input("mask sharers v1", [roster, *sharers])).digest()


@dataclass(frozen=True, slots=True)
class Reveal:
    """Step 5: a survivor's answer. For each other sharer one share, of one kind only.

    seeds: of survivors, their self-seed; masks: of those who vanished, their private mask key. 33 bytes each.
    """

    client: str
    set_digest: bytes
    seeds: dict[str, bytes] = field(repr=False)
    masks: dict[str, bytes] = field(repr=False)
