"""Rankings as bits: ceil(log2 n) per edge, little-endian, each layer filled up with zero bits to a whole byte."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from edgehold.core.errors import NotPermutation, WrongShape
from edgehold.core.vectors import Array, Blob, Bytes
from edgehold.defenses.frl.state import Ranking

_STEP = 1 << 16
"""Edges packed at once; a multiple of eight, so that steps end on whole bytes."""


def width(edges: int) -> int:
    """Bits of an edge id: ceil(log2 n); none for a single edge."""
    return (edges - 1).bit_length()


def packed_bytes(edges: int) -> int:
    """Bytes of a ranking of so many edges."""
    return -(-edges * width(edges) // 8)


def pack(ranking: Ranking) -> Iterator[Array]:
    """The bytes of a ranking, step by step, uint8."""
    bits = width(len(ranking))
    for start in range(0, len(ranking) if bits else 0, _STEP):
        values = np.ascontiguousarray(ranking[start : start + _STEP], dtype="<u4")
        each = np.unpackbits(values.view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")[:, :bits]
        yield np.packbits(each.reshape(-1), bitorder="little")


def unpack(blob: Blob, at: int, edges: int) -> Ranking:
    """The ranking that lies at byte `at`; `NotPermutation` or `WrongShape` when there is none."""
    bits, end = width(edges), at + packed_bytes(edges)
    values = np.zeros(edges, dtype="<u4")
    for start in range(0, edges if bits else 0, _STEP):
        count = min(_STEP, edges - start)
        first = at + start * bits // 8
        data = np.frombuffer(blob.read(first, min(first + _STEP * bits // 8, end)), dtype=np.uint8)
        each = np.unpackbits(data, bitorder="little")
        if each[count * bits :].any():
            raise WrongShape("bits that fill up the last byte of a ranking are not zero")
        wide = np.zeros((count, 32), dtype=np.uint8)
        wide[:, :bits] = each[: count * bits].reshape(count, bits)
        values[start : start + count] = np.packbits(wide, axis=1, bitorder="little").view("<u4").reshape(-1)
    _permutation(values)
    return values.astype(np.int32)


def _permutation(values: Array) -> None:
    beyond = np.flatnonzero(values >= len(values))
    if len(beyond):
        raise NotPermutation(f"place {beyond[0]} holds edge {values[beyond[0]]}; the layer has edges 0 to {len(values) - 1}")
    seen = np.zeros(len(values), dtype=bool)
    seen[values] = True
    if not seen.all():
        raise NotPermutation(f"edge {int(np.argmin(seen))} is missing, so another one is there twice; each must be there once")


@dataclass(frozen=True, slots=True)
class PackedRankings(Sequence[Ranking]):
    """Rankings that stay packed until one is asked for. edges: of every layer.

    blob: exactly `size` bytes, else `WrongShape`.
    """

    blob: Blob
    edges: tuple[int, ...]

    def __post_init__(self) -> None:
        needed = sum(map(packed_bytes, self.edges))
        if self.blob.size != needed:
            raise WrongShape(f"rankings of {self.blob.size} bytes; layers of {list(self.edges)} edges need {needed}")

    def __len__(self) -> int:
        return len(self.edges)

    @overload
    def __getitem__(self, layer: int) -> Ranking: ...
    @overload
    def __getitem__(self, layer: slice) -> Sequence[Ranking]: ...
    def __getitem__(self, layer: int | slice) -> Ranking | Sequence[Ranking]:
        if isinstance(layer, slice):
            return [self[one] for one in range(*layer.indices(len(self)))]
        number = range(len(self))[layer]
        return unpack(self.blob, sum(map(packed_bytes, self.edges[:number])), self.edges[number])


def packed(rankings: Sequence[Ranking]) -> Blob:
    """All rankings one after the other."""
    if isinstance(rankings, PackedRankings):
        return rankings.blob
    return Bytes(b"".join(part.tobytes() for ranking in rankings for part in pack(ranking)))
