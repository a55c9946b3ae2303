"""Numbers of a few bits as bytes, exactly ceil(count * bits / 8) of them, at the speed of memory.

Numbers lie in blocks of `STEP`, the last one shorter but a multiple of eight; a block is one plane after the other. The plane
of 16 bits holds the lowest 16 of each number as little-endian uint16, that of 8 bits the next eight, and those of 4, 2 and 1
bits what is left, as far as the bits of `bits` say (21 = 16 + 4 + 1). A byte of a plane of b < 8 bits holds the numbers j,
j + L, j + 2 L .. of the block, the first one lowest, L being the bytes of the plane: so every step is one over neighbours. The
up to seven numbers after the last multiple of eight follow as one little-endian integer, the first one lowest.
"""

from collections.abc import Iterator

import numpy as np

from edgehold.core.errors import WrongShape
from edgehold.core.vectors import Array, Blob, blocks

STEP = 1 << 17
"""Numbers packed at once."""
_SMALL = (4, 2, 1)


def width(values: int) -> int:
    """Bits that tell 0..values-1 apart: ceil(log2 values); none for a single one."""
    return (values - 1).bit_length()


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` numbers of so many bits."""
    return -(-count * bits // 8)


def pack(values: Array, bits: int) -> Iterator[Array]:
    """The bytes of (count,) integers below 2^bits, uint8, block by block. bits: 0 to 31."""
    if not bits:
        return
    whole = len(values) & ~7
    for start, stop in blocks(whole, STEP):
        yield _pack_block(values[start:stop], bits)
    if whole < len(values):
        rest = sum(int(value) << (bits * place) for place, value in enumerate(values[whole:]))
        yield np.frombuffer(rest.to_bytes(packed_bytes(len(values) - whole, bits), "little"), dtype=np.uint8)


def unpack(blob: Blob, at: int, count: int, bits: int) -> Iterator[tuple[int, Array]]:
    """(start, numbers from there on) of what `pack` wrote at byte `at`, int32, block by block.

    A block is overwritten by the next one. `WrongShape` when the bits that fill up the last byte are not zero.
    """
    buffer = np.zeros(min(count, STEP), dtype="<i4")
    if not bits:
        for start, stop in blocks(count, STEP):
            yield start, buffer[: stop - start]
        return
    whole = count & ~7
    for start, stop in blocks(whole, STEP):
        block = buffer[: stop - start]
        _unpack_block(np.frombuffer(blob.read(at + start * bits // 8, at + stop * bits // 8), dtype=np.uint8), bits, block)
        yield start, block
    if whole < count:
        rest = int.from_bytes(blob.read(at + whole * bits // 8, at + packed_bytes(count, bits)), "little")
        if rest >> (bits * (count - whole)):
            raise WrongShape("bits that fill up the last byte are not zero")
        each = [rest >> (bits * place) & ((1 << bits) - 1) for place in range(count - whole)]
        yield whole, np.array(each, dtype=np.int32)


def _pack_block(values: Array, bits: int) -> Array:
    size, at = len(values), 0
    out = np.empty(size * bits // 8, dtype=np.uint8)
    if bits & 16:
        out[: 2 * size] = values.astype("<u2").view(np.uint8)
        at = 2 * size
    if bits & 8:
        np.copyto(out[at : at + size], values >> (bits & 16), casting="unsafe")
        at += size
    if bits & 7:
        left = (values >> (bits & 24)).astype(np.uint8)
        for plane in _SMALL:
            if bits & plane:
                length = size * plane // 8
                stripes = (left & np.uint8((1 << plane) - 1)).reshape(-1, length)
                into = out[at : at + length]
                into[:] = stripes[0]
                for number in range(1, len(stripes)):
                    into |= stripes[number] << np.uint8(number * plane)
                left >>= np.uint8(plane)
                at += length
    return out


def _unpack_block(data: Array, bits: int, out: Array) -> None:
    size = len(out)
    at = 2 * size if bits & 16 else 0
    high: Array = np.zeros(
        size, dtype=np.uint8
    )  # what stands above the plane of 16 bits; at first the small planes: 4 + 2 + 1 bits
    start = at + size if bits & 8 else at
    shift = 0
    for plane in _SMALL:
        if bits & plane:
            length = size * plane // 8
            source, stripes = data[start : start + length], high.reshape(-1, length)
            for number in range(len(stripes)):
                by = number * plane - shift
                part = source >> np.uint8(by) if by >= 0 else source << np.uint8(-by)
                part &= np.uint8(((1 << plane) - 1) << shift)
                stripes[number] |= part
            shift += plane
            start += length
    if bits & 8:
        high = high.astype(np.uint16) << np.uint16(8) | data[at : at + size]
    if bits & 16:
        # Both halves of each number straight to their places: no shift, and nothing wide in between.
        halves = out.view("<u2").reshape(-1, 2)
        halves[:, 0] = data[: 2 * size].view("<u2")
        halves[:, 1] = high
    else:
        out[:] = high
