"""Shamir's secret sharing (1979) over the integers modulo a prime just above 2^256, so that every 32 bytes are a secret.

Plain integers: a group of 64 needs some 5,000 products to split and 43 to recover, a few milliseconds. NumPy has no numbers of
this size, and limbs in arrays were slower below a hundred thousand products.
"""

from collections.abc import Mapping, Sequence

from edgehold.core.errors import WrongShape

PRIME = (1 << 256) + 297
"""The smallest prime above 2^256."""
SHARE_BYTES = 33
_DRAW_BYTES = 48
"""Random bytes per coefficient: reducing 384 bits leaves it within 2^-127 of uniform."""


def split(secret: bytes, threshold: int, places: Sequence[int], random: bytes) -> list[int]:
    """Shares of 32 secret bytes at the places (distinct, from 1); any `threshold` of them give it back, fewer say nothing.

    random: `random_bytes(threshold)` bytes that are used for nothing else.
    """
    if len(secret) != 32 or len(random) != random_bytes(threshold):
        raise ValueError(f"{len(secret)} secret and {len(random)} random bytes; 32 and {random_bytes(threshold)} are needed")
    starts = range(0, len(random), _DRAW_BYTES)
    higher = [int.from_bytes(random[start : start + _DRAW_BYTES], "little") % PRIME for start in starts]
    shares = []
    for place in places:
        value = 0
        for coefficient in higher:
            value = (value + coefficient) * place % PRIME
        shares.append((value + int.from_bytes(secret, "little")) % PRIME)
    return shares


def random_bytes(threshold: int) -> int:
    """How many random bytes one split takes."""
    return _DRAW_BYTES * (threshold - 1)


def weights(places: Sequence[int], at: int = 0) -> list[int]:
    """What shares at these places are multiplied with to give the value at another place; the secret stands at 0."""
    found = []
    for mine in places:
        above = below = 1
        for other in places:
            if other != mine:
                above = above * (at - other) % PRIME
                below = below * (mine - other) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return found


def value_at(shares: Mapping[int, int], factors: Sequence[int]) -> int:
    """The value that shares at places (in the order of the `weights`) have."""
    return sum(share * factor for share, factor in zip(shares.values(), factors, strict=True)) % PRIME


def secret_of(value: int) -> bytes | None:
    """A recovered value as 32 bytes; None where it is none, which good shares never give."""
    return value.to_bytes(32, "little") if value < 1 << 256 else None


def encode(share: int) -> bytes:
    """33 bytes."""
    return share.to_bytes(SHARE_BYTES, "little")


def decode(data: bytes) -> int:
    """Inverse of `encode`; `WrongShape` for what is no share."""
    share = int.from_bytes(data, "little")
    if len(data) != SHARE_BYTES or share >= PRIME:
        raise WrongShape(f"a share of {len(data)} bytes; {SHARE_BYTES} are expected, below the prime")
    return share
