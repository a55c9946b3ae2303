"""Masks, sign bits and counts as bytes: one bit per weight for a mask, one per weight left for signs, the bits of the number
of voters per weight left for counts. Bits lie lowest first, filled up with zero bits to whole bytes; counts as in
`defenses.packing`.
"""

from collections.abc import Iterator

import numpy as np

from edgehold.core.errors import OutsideLaw, WrongShape
from edgehold.core.vectors import Array, Blob
from edgehold.defenses.hidenseek.state import Bits, Counts, Mask
from edgehold.defenses.packing import pack, packed_bytes, unpack


def pack_bits(bits: Bits) -> Array:
    """uint8."""
    return np.packbits(bits, bitorder="little")


def unpack_bits(blob: Blob, at: int, count: int, what: str) -> Bits:
    """(count,) bool from byte `at` on; `WrongShape` when a bit that fills up the last byte is set."""
    data = np.frombuffer(blob.read(at, at + packed_bytes(count, 1)), dtype=np.uint8)
    each = np.unpackbits(data, bitorder="little")
    if each[count:].any():
        raise WrongShape(f"bits that fill up the last byte of the {what} are not zero")
    return each[:count].view(np.bool_)


def mask_and_counts_bytes(weights: int, kept: int, voters: int) -> int:
    """Bytes of a mask over so many weights and the counts of those left."""
    return packed_bytes(weights, 1) + packed_bytes(kept, voters.bit_length())


def write(mask: Mask, counts: Counts, voters: int) -> Iterator[Array]:
    """Mask, then counts, none where nobody has voted."""
    yield pack_bits(mask)
    yield from pack(counts, voters.bit_length())


def read(blob: Blob, weights: int, kept: int, voters: int) -> tuple[Mask, Counts]:
    """Inverse of `write`; `WrongShape` or `OutsideLaw` where the bytes are none such."""
    needed = mask_and_counts_bytes(weights, kept, voters)
    if blob.size != needed:
        raise WrongShape(f"{blob.size} bytes; {weights} weights, {kept} of them left, and {voters} voters need {needed}")
    mask = unpack_bits(blob, 0, weights, "mask")
    if int(mask.sum()) != kept:
        raise OutsideLaw(f"the mask leaves {int(mask.sum())} weights; {kept} were announced")
    counts = np.empty(kept if voters else 0, dtype=np.uint16)
    for start, numbers in unpack(blob, packed_bytes(weights, 1), len(counts), voters.bit_length()):
        counts[start : start + len(numbers)] = numbers
    beyond = np.flatnonzero(counts > voters)
    if len(beyond):
        raise OutsideLaw(f"weight {beyond[0]} of those left has {counts[beyond[0]]} votes; there are {voters} voters")
    return mask, counts
