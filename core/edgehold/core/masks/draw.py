"""Who is in which group: drawn from a value that was committed before the adverts, and from all adverts.

Nobody can choose their company alone: the committed value is fixed before any key is known, and every key changes the draw.
Devices draw again and compare. (A server may still drop adverts until it likes a draw: what bounds it is the threshold.)
Members of void groups are dealt out over all groups, so that whoever spoils sums meets new company and gives itself away
(`suspicion`); who was in which void group is committed too, as a number above 0 that they share.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from edgehold.core.errors import GroupLost
from edgehold.core.manifest import signing_input
from edgehold.core.masks.terms import FLOOR

MOST_ASKED = 4096
"""Devices that can be asked in one round: a roster names them all, and a message has to hold it."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """One who was asked. company: of the void group it was in last, 0 for none; advert: digest, empty where none came."""

    client: str
    company: int = 0
    advert: bytes = b""


def commitment(value: bytes, invited: Sequence[Entrant]) -> bytes:
    """What is told before the adverts. value: 32 random bytes."""
    told: list[bytes | str | int] = [value]
    for one in sorted(invited, key=lambda one: one.client):
        told += [one.client, one.company]
    return hashlib.sha256(signing_input("mask draw commitment v1", told)).digest()


def count(entrants: int, least: int, most: int) -> int:
    """How many groups: as many as can have `least` members, and so many that none has more than `most`. `GroupLost` where
    fewer than the floor entered; above it no group is smaller than the floor, because `most` is at least twice that less one.
    """
    if entrants < FLOOR:
        raise GroupLost(f"{entrants} devices sent their keys; a masked sum needs {FLOOR}")
    return max(entrants // least, -(-entrants // most))


def groups(value: bytes, everyone: Sequence[Entrant], least: int, most: int) -> tuple[tuple[str, ...], ...]:
    """Ids of each group in ascending order; sizes differ by one at most."""
    entered = sorted((one for one in everyone if one.advert), key=lambda one: one.client)
    told: list[bytes | str | int] = [value]
    for one in entered:
        told += [one.client, one.advert]
    seed = hashlib.sha256(signing_input("mask draw v1", told)).digest()

    def place(one: Entrant) -> tuple[bool, bytes, bytes]:
        # Former company stands together, in an order nobody chose, and is dealt out one per group; the rest follows.
        together = hashlib.sha256(seed + b"company" + one.company.to_bytes(8, "little")).digest() if one.company else b""
        return one.company == 0, together, hashlib.sha256(seed + one.client.encode()).digest()

    number = count(len(entered), least, most)
    dealt = [one.client for one in sorted(entered, key=place)]
    return tuple(tuple(sorted(dealt[first::number])) for first in range(number))
