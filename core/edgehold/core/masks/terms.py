"""The terms of one attempt, the same for all who take part: what is summed, for which round, in which form. Their digest is the
transcript that every signature and every key is bound to.
"""

import hashlib
import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from edgehold.core.manifest import signing_input
from edgehold.core.masks.fixed import FixedPoint

Source: TypeAlias = Callable[[int], bytes]
"""count -> that many random bytes. Another than the system's is of use in tests alone."""
SYSTEM: Source = os.urandom

CipherName = Literal["aes256-ctr", "chacha20"]
CIPHERS: dict[str, CipherName] = {one: one for one in get_args(CipherName)}
"""Ciphers by name."""
FLOOR, CEILING = 8, 64
"""Members a group has at least and at most, whatever a plan says."""
LEAST, MOST = 16, 32
"""Members of a group where a plan says nothing."""
MOST_BYTES = 64 << 20
"""Of a masked vector."""
WIDTHS: dict[int, np.dtype[np.unsignedinteger]] = {8: np.dtype("<u1"), 16: np.dtype("<u2"), 32: np.dtype("<u4")}
"""Bits of the modulus, and how its numbers travel."""


@dataclass(frozen=True, slots=True)
class Terms:
    """entries: numbers in a vector; largest: of one client's entry, the smallest is 0; margin: what noise may add to a sum in
    either direction; bits: of the modulus; least (of enough), most: members of a group. draw_commitment: see `draw`.

    Reals (`fixed`): clip is the largest absolute value of an entry, 0 where entries are whole numbers by themselves; norm the
    largest Euclidean norm of a vector, 0 for any. Noise (`noise`): variance that a sum carries at least, in squared steps of
    the grid, 0 for none; helpers, that are not counted on.
    """

    federation: str
    plan_digest: bytes
    run: str
    round: int
    attempt: int
    nonce: bytes
    base_digest: bytes
    draw_commitment: bytes
    entries: int
    largest: int
    bits: int
    margin: int = 0
    cipher: CipherName = "aes256-ctr"
    least: int = LEAST
    most: int = MOST
    clip: float = 0.0
    norm: float = 0.0
    variance: float = 0.0
    helpers: int = 0

    @property
    def transcript(self) -> bytes:
        """32 bytes that name attempt and terms."""
        where = (self.federation, self.plan_digest, self.run, self.round, self.attempt, self.nonce, self.base_digest)
        form = (self.entries, self.largest, self.bits, self.margin, self.cipher, self.least, self.most)
        reals = struct.pack("<3d", self.clip, self.norm, self.variance)
        told: list[bytes | str | int] = [*where, self.draw_commitment, *form, reals, self.helpers]
        return hashlib.sha256(signing_input("mask terms v1", told)).digest()

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Of masked numbers."""
        return WIDTHS[self.bits]

    @property
    def payload_bytes(self) -> int:
        """Length of a masked vector."""
        return self.entries * self.bits // 8

    @property
    def grid(self) -> FixedPoint:
        """On which reals lie; only where there is a clip."""
        return FixedPoint(self.clip, self.largest // 2)

    def fault(self) -> str:
        """Why no sum can be made on these terms; empty where it can."""
        if self.bits not in WIDTHS:
            return f"modulus of {self.bits} bits; allowed: {', '.join(str(bits) for bits in WIDTHS)}"
        if self.cipher not in get_args(CipherName):
            return f"cipher {self.cipher[:64]!r}; allowed: {', '.join(get_args(CipherName))}"
        if self.entries < 1 or self.payload_bytes > MOST_BYTES:
            return f"{self.entries} entries of {self.bits} bits; allowed: 1 entry to {MOST_BYTES >> 20} MiB"
        if not FLOOR <= self.least <= self.most <= CEILING or self.most < 2 * FLOOR - 1:
            return (
                f"groups of {self.least} to {self.most}; allowed: {FLOOR} <= least <= most <= {CEILING}, and most at least "
                f"{2 * FLOOR - 1}, so that every number of devices can be divided"
            )
        if self.largest < 1 or self.margin < 0 or capacity(self.most, self.largest, self.margin) > 1 << self.bits:
            return (
                f"entries up to {self.largest} with a margin of {self.margin} for noise: the sum of {self.most} has "
                f"{capacity(self.most, self.largest, self.margin)} values, the modulus of {self.bits} bits has room for "
                f"{1 << self.bits}"
            )
        reals = (self.clip, self.norm, self.variance)
        if not all(math.isfinite(one) and one >= 0 for one in reals):
            return f"clip {self.clip}, norm {self.norm}, noise of variance {self.variance}; none may be negative or infinite"
        if self.clip and self.largest % 2:
            return f"a grid of reals from 0 to {self.largest}; an even number, twice the steps to the clip, is allowed"
        if self.variance and not (self.clip and self.norm):
            return "noise without a clip and a norm: what a vector costs in privacy would not be known"
        if self.helpers < 0 or self.helpers > threshold(FLOOR):
            return f"{self.helpers} helpers; 0 to {threshold(FLOOR)} leave somebody whose noise counts in the smallest groups"
        return ""


def capacity(members: int, largest: int, margin: int) -> int:
    """Values that a sum of so many entries can have, noise included."""
    return members * largest + 2 * margin + 1


def narrowest(members: int, largest: int, margin: int = 0) -> int:
    """Bits of the smallest modulus in which such sums do not wrap; `ValueError` when there is none."""
    for bits in WIDTHS:
        if capacity(members, largest, margin) <= 1 << bits:
            return bits
    raise ValueError(f"sums of {members} entries up to {largest} (margin {margin}) do not fit in 32 bits; use a coarser grid")


def threshold(members: int) -> int:
    """Shares that give a secret back, of the k = members - 1 that exist: floor(2k / 3) + 1."""
    return 2 * (members - 1) // 3 + 1


def helpers_withstood(members: int) -> int:
    """Members that may conspire with a lying server: 2t - k - 1. One more, and both secrets of a member can be had."""
    return 2 * threshold(members) - (members - 1) - 1


def dropouts_withstood(members: int) -> int:
    """Members that may vanish: k - t; then t + 1 are left."""
    return members - 1 - threshold(members)
