"""The forms in which the ranks of a layer travel, each with its law. Ranks go by edge id: rank[edge], 0 for the least.

`Packed`: ceil(log2 n) bits per rank. `Entropy` (see `entropy`): within three percent of the log2(n!) bits that a permutation
needs. `Top`: only the ids of the upper edges, by rising rank; every other edge counts as rank 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

import numpy as np

from edgehold.core.errors import NotPermutation, RejectedUpdate, WrongShape
from edgehold.core.vectors import Array, Blob, Bytes
from edgehold.defenses.frl.entropy import ENTROPY
from edgehold.defenses.frl.state import Ranks
from edgehold.defenses.layers import dropped_edges
from edgehold.defenses.packing import STEP, pack, packed_bytes, unpack, width


class Form(Protocol):
    """One way to write ranks."""

    def size(self, edges: int) -> int:
        """Bytes of a layer of so many edges."""

    def write(self, ranks: Ranks) -> Iterator[Array]:
        """The bytes, uint8, piece by piece."""

    def read(self, blob: Blob, at: int, edges: int) -> Iterator[tuple[int, Array]]:
        """(start, ranks of the edges from there on) of what lies at byte `at`, int32; a piece is overwritten by the next one.

        For what has passed `check`: whatever else lies there gives numbers or a `RejectedUpdate`, no more.
        """

    def check(self, blob: Blob, at: int, edges: int) -> None:
        """The law; `NotPermutation` or `WrongShape` says how it is broken."""


class Packed:
    """ceil(log2 n) bits per rank (`packing`)."""

    def size(self, edges: int) -> int:
        """See `Form`."""
        return packed_bytes(edges, width(edges))

    def write(self, ranks: Ranks) -> Iterator[Array]:
        """See `Form`."""
        return pack(ranks, width(len(ranks)))

    def read(self, blob: Blob, at: int, edges: int) -> Iterator[tuple[int, Array]]:
        """See `Form`."""
        return unpack(blob, at, edges, width(edges))

    def check(self, blob: Blob, at: int, edges: int) -> None:
        """Each of 0..n-1 once, filling bits zero."""
        seen = distinct(self.read(blob, at, edges), edges, "edge {} has rank {}; the layer has ranks 0 to {}")
        if not seen.all():
            raise NotPermutation(
                f"rank {int(np.argmin(seen))} is missing, so another one is there twice; each must be there once"
            )


@dataclass(frozen=True, slots=True)
class Top:
    """The ids of n - floor((1 - share) n) edges, ceil(log2 n) bits each. Source: Sparse-FRL of the paper (not in its code)."""

    share: float

    def sent(self, edges: int) -> int:
        """Edges that are named."""
        return edges - dropped_edges(edges, self.share)

    def size(self, edges: int) -> int:
        """See `Form`."""
        return packed_bytes(self.sent(edges), width(edges))

    def write(self, ranks: Ranks) -> Iterator[Array]:
        """See `Form`."""
        first = len(ranks) - self.sent(len(ranks))
        edges = np.flatnonzero(ranks >= first) if first else np.arange(len(ranks))
        named = np.empty(len(ranks) - first, dtype=np.int32)
        named[ranks[edges] - first] = edges
        return pack(named, width(len(ranks)))

    def read(self, blob: Blob, at: int, edges: int) -> Iterator[tuple[int, Array]]:
        """See `Form`."""
        sent = self.sent(edges)
        ranks = np.zeros(edges, dtype=np.int32)
        for start, named in unpack(blob, at, sent, width(edges)):
            first = edges - sent + start
            # Checked ids are below n; others may not be, and then they count for the last edge.
            ranks[np.minimum(named, edges - 1)] = np.arange(first, first + len(named), dtype=np.int32)
        yield 0, ranks

    def check(self, blob: Blob, at: int, edges: int) -> None:
        """As many different edges as must be named, filling bits zero."""
        sent = self.sent(edges)
        read = unpack(blob, at, sent, width(edges))
        seen = distinct(read, edges, "place {} names edge {}; the layer has edges 0 to {}")
        if (found := int(np.count_nonzero(seen))) != sent:
            raise NotPermutation(f"{sent} places name {found} different edges; each may be named once")


def distinct(pieces: Iterator[tuple[int, Array]], limit: int, beyond: str) -> Array:
    """(limit,) bool: which of 0..limit-1 occur. `NotPermutation` when something else does.

    beyond: message for place, number and largest number allowed. One scatter of booleans, the cheapest exact test there is.
    """
    seen = np.zeros(limit, dtype=bool)
    index = np.empty(min(limit, STEP), dtype=np.intp)  # indexing by int32 makes such a copy anyway, more slowly
    for start, numbers in pieces:
        if numbers.max(initial=0) >= limit:
            place = int(np.argmax(numbers >= limit))
            raise NotPermutation(beyond.format(start + place, numbers[place], limit - 1))
        here = index[: len(numbers)]
        here[:] = numbers
        seen[here] = True
    return seen


PACKED = Packed()


def forms_of(entropy: Sequence[bool], top: float = 1.0) -> tuple[Form, ...]:
    """One form per layer. entropy: which layers are entropy-coded; top: share of the edges that are named, 1 for all ranks."""
    if top < 1.0:
        return (Top(top),) * len(entropy)
    return tuple(ENTROPY if coded else PACKED for coded in entropy)


@dataclass(frozen=True, slots=True)
class EncodedRanks(Sequence[Ranks]):
    """Ranks that stay encoded until a layer is asked for. edges, forms: of every layer.

    blob: exactly as many bytes as these need, else `WrongShape`. It may lie in a file; decoded ranks would fill the memory.
    """

    blob: Blob
    edges: tuple[int, ...]
    forms: tuple[Form, ...]

    def __post_init__(self) -> None:
        needed = self._start(len(self.edges))
        if self.blob.size != needed:
            raise WrongShape(f"ranks of {self.blob.size} bytes; layers of {list(self.edges)} edges need {needed}")

    def __len__(self) -> int:
        return len(self.edges)

    @overload
    def __getitem__(self, layer: int) -> Ranks: ...
    @overload
    def __getitem__(self, layer: slice) -> Sequence[Ranks]: ...
    def __getitem__(self, layer: int | slice) -> Ranks | Sequence[Ranks]:
        if isinstance(layer, slice):
            return [self[one] for one in range(*layer.indices(len(self)))]
        number = range(len(self))[layer]
        ranks = np.empty(self.edges[number], dtype=np.int32)
        for start, piece in self.pieces(number):
            ranks[start : start + len(piece)] = piece
        return ranks

    def pieces(self, layer: int) -> Iterator[tuple[int, Array]]:
        """(start, ranks from there on) of a layer, so that not even one layer must stand in memory whole."""
        return self.forms[layer].read(self.blob, self._start(layer), self.edges[layer])

    def check(self, names: Sequence[str]) -> None:
        """The law of every layer; the error names the layer. names: of the layers."""
        for number, name in enumerate(names):
            try:
                self.forms[number].check(self.blob, self._start(number), self.edges[number])
            except RejectedUpdate as error:
                raise type(error)(f"{name}: {error.message}") from None

    def _start(self, layer: int) -> int:
        return sum(form.size(edges) for form, edges in zip(self.forms[:layer], self.edges, strict=False))


def encoded(ranks: Sequence[Ranks], forms: tuple[Form, ...]) -> Blob:
    """All layers one after the other."""
    if isinstance(ranks, EncodedRanks) and ranks.forms == forms:
        return ranks.blob
    return Bytes(b"".join(part.tobytes() for layer, form in zip(ranks, forms, strict=True) for part in form.write(layer)))


def pieces_of(ranks: Sequence[Ranks], layer: int) -> Iterator[tuple[int, Array]]:
    """(start, ranks from there on) of a layer."""
    if isinstance(ranks, EncodedRanks):
        return ranks.pieces(layer)
    return iter([(0, ranks[layer])])
