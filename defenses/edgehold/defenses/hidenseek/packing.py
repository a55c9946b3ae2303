"""Masks, sign bits and counts as bytes: one bit per weight for a mask, one per weight left for signs, the bits of the number of
voters per weight left for counts. Little-endian bit order, filled up with zero bits to whole bytes."""

from collections.abc import Iterator

import numpy as np

from edgehold.core.errors import OutsideLaw, WrongShape
from edgehold.core.vectors import Array, Blob, blocks
from edgehold.defenses.hidenseek.state import Bits, Counts, Mask

_STEP = 1 << 18
"""Numbers worked on at once; a multiple of eight, so that steps end on whole bytes."""


def packed_bytes(count: int, bits: int = 1) -> int:
    """Bytes of so many numbers of so many bits."""
    return -(-count * bits // 8)


def pack_bits(bits: Bits) -> Array:
    """uint8."""
    return np.packbits(bits, bitorder="little")


def unpack_bits(blob: Blob, at: int, count: int, what: str) -> Bits:
    """(count,) bool from byte `at` on; `WrongShape` when a bit that fills up the last byte is set."""
    data = np.frombuffer(blob.read(at, at + packed_bytes(count)), dtype=np.uint8)
    each = np.unpackbits(data, bitorder="little")
    if each[count:].any():
        raise WrongShape(f"bits that fill up the last byte of the {what} are not zero")
    return each[:count].view(np.bool_)


def pack_counts(counts: Counts, voters: int) -> Iterator[Array]:
    """The bytes of counts up to `voters`, step by step."""
    bits = voters.bit_length()
    for lo, hi in blocks(len(counts) if bits else 0, _STEP):
        each = np.unpackbits(counts[lo:hi].astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")[:, :bits]
        yield np.packbits(each.reshape(-1), bitorder="little")


def unpack_counts(blob: Blob, at: int, kept: int, voters: int) -> Counts:
    """(kept,) uint16; `OutsideLaw` names a count above `voters`, `WrongShape` a set filling bit. Empty for no voters."""
    bits = voters.bit_length()
    counts = np.zeros(kept if bits else 0, dtype="<u2")
    for lo, hi in blocks(len(counts), _STEP):
        data = np.frombuffer(blob.read(at + lo * bits // 8, at + packed_bytes(hi, bits)), dtype=np.uint8)
        each = np.unpackbits(data, bitorder="little")
        if each[(hi - lo) * bits :].any():
            raise WrongShape("bits that fill up the last byte of the counts are not zero")
        wide = np.zeros((hi - lo, 16), dtype=np.uint8)
        wide[:, :bits] = each[: (hi - lo) * bits].reshape(-1, bits)
        counts[lo:hi] = np.packbits(wide, axis=1, bitorder="little").view("<u2").reshape(-1)
    beyond = np.flatnonzero(counts > voters)
    if len(beyond):
        raise OutsideLaw(f"weight {beyond[0]} of those left has {counts[beyond[0]]} votes; there are {voters} voters")
    return counts


def mask_and_counts_bytes(weights: int, kept: int, voters: int) -> int:
    """Bytes of a mask over so many weights and the counts of those left."""
    return packed_bytes(weights) + packed_bytes(kept, voters.bit_length())


def write(mask: Mask, counts: Counts, voters: int) -> Iterator[Array]:
    """Mask, then counts."""
    yield pack_bits(mask)
    yield from pack_counts(counts, voters)


def read(blob: Blob, weights: int, kept: int, voters: int) -> tuple[Mask, Counts]:
    """Inverse of `write`; `WrongShape` or `OutsideLaw` where the bytes are none such."""
    needed = mask_and_counts_bytes(weights, kept, voters)
    if blob.size != needed:
        raise WrongShape(f"{blob.size} bytes; {weights} weights, {kept} of them left, and {voters} voters need {needed}")
    mask = unpack_bits(blob, 0, weights, "mask")
    if int(mask.sum()) != kept:
        raise OutsideLaw(f"the mask leaves {int(mask.sum())} weights; {kept} were announced")
    return mask, unpack_counts(blob, packed_bytes(weights), kept, voters)
