"""Updates as rows of a matrix that never stands in memory as a whole."""

import os
import threading
from collections.abc import Sequence
from math import prod
from typing import Protocol

import numpy as np

from edgehold.core import kernels
from edgehold.core.errors import WrongShape
from edgehold.core.vectors import SLACK, Array, FloatArray, Vector, blocks

HELD = 1 << 24
"""Values that all threads together may hold of updates that do not lie in memory: 64 MiB, whatever the number of clients."""
THREADS = 8
"""Most threads that work on blocks."""
_LONG = 1 << 16  # most columns of a block: enough for reads from files, few enough for all cores to have some
_SHORT = 256  # fewest
_EXTRA = SLACK // 4
_MIXED = 1 << 18  # values of a float64 block that is mixed: 2 MiB
_SUMMED = 1 << 14  # values of a sum that is added up: with its terms it stays in the second-level cache


class Rows(Protocol):
    """n updates of d values each, read by blocks of columns; safe to read from several threads."""

    @property
    def n(self) -> int:
        """Number of rows."""

    @property
    def d(self) -> int:
        """Number of columns."""

    def views(self, lo: int, hi: int) -> Sequence[FloatArray]:
        """Columns lo..hi of every row, each (hi - lo,) float32, not to be written to.

        Good until the same thread asks for others: rows that are worked out stand in memory that is used again.
        """

    def row(self, index: int, lo: int, hi: int) -> FloatArray:
        """Columns lo..hi of one row, (hi - lo,) float32, not to be written to."""


class VectorRows:
    """Rows over vectors of one length, each multiplied by its scale (1 by default)."""

    def __init__(self, vectors: Sequence[Vector], scales: Sequence[float] | None = None) -> None:
        self._vectors = vectors
        self._scales = scales or [1.0] * len(vectors)
        self._scratch = Scratch() if any(vector.fills for vector in vectors) else None
        if len({vector.size for vector in vectors}) > 1 or len(self._scales) != len(vectors):
            raise WrongShape(f"{len(vectors)} rows with {len(self._scales)} scales; all rows must have one length")

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self._vectors)

    @property
    def d(self) -> int:
        """Number of columns."""
        return self._vectors[0].size if self._vectors else 0

    def views(self, lo: int, hi: int) -> Sequence[FloatArray]:
        """As `Rows.views`; copied only where the vector itself copies or a scale is not 1."""
        if self._scratch is None:
            return [self.row(index, lo, hi) for index in range(self.n)]
        room = self._scratch.take("rows", self.n, hi - lo + _EXTRA)
        read = []
        for vector, scale, place in zip(self._vectors, self._scales, room, strict=True):
            values = vector.read_into(lo, hi, place)
            read.append(values if scale == 1.0 else np.multiply(values, np.float32(scale), out=place[: hi - lo]))
        return read

    def row(self, index: int, lo: int, hi: int) -> FloatArray:
        """Columns lo..hi of one row, (hi - lo,) float32, not to be written to."""
        values = self._vectors[index].read(lo, hi)
        scale = self._scales[index]
        return values if scale == 1.0 else np.multiply(values, np.float32(scale))


class Scratch(threading.local):
    """Buffers that a thread uses again for every block, so that blocks cost no fresh memory."""

    def __init__(self) -> None:
        self._kept: dict[str, Array] = {}

    def __reduce__(self) -> tuple[type["Scratch"], tuple[()]]:
        return Scratch, ()  # another process has memory of its own

    def take(self, name: str, *shape: int, dtype: str = "<f4") -> Array:
        """An uninitialised array of that shape, cut from the thread's own memory."""
        size = prod(shape)
        if name not in self._kept or self._kept[name].size < size:
            self._kept[name] = np.empty(size, dtype=dtype)
        return self._kept[name][:size].reshape(shape)


class MixedRows:
    """Rows that are combinations of other rows, worked out block by block and rounded to float32.

    mix: (n, basis.n) float64. A row that copies one basis row is copied, not multiplied.
    """

    def __init__(self, basis: Rows, mix: Array) -> None:
        self._basis, self._mix, self._scratch = basis, np.ascontiguousarray(mix), Scratch()
        used, most = mix != 0.0, mix.max(axis=1, initial=0.0)
        single = (used.sum(axis=1) == 1) & (most == 1.0)
        self._copied = used.argmax(axis=1) if bool(single.all()) else None
        # Means over subsets (neighbours, buckets) take fewer additions than combinations at large.
        even = bool((mix == np.where(used, most[:, None], 0.0)).all())
        self._subsets = (kernels.subsets(used), most) if even else None

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self._mix)

    @property
    def d(self) -> int:
        """Number of columns."""
        return self._basis.d

    def views(self, lo: int, hi: int) -> Sequence[FloatArray]:
        """As `Rows.views`."""
        if self._copied is not None:
            basis = self._basis.views(lo, hi)
            return [basis[int(source)] for source in self._copied]
        out = self._scratch.take("out", self.n, hi - lo)
        self.write(lo, hi, list(out))
        return list(out)

    def write(self, lo: int, hi: int, out: Sequence[FloatArray]) -> None:
        """Columns lo..hi of every row into the arrays of `out`, each (hi - lo,) float32."""
        if (compiled := kernels.loaded()) is not None:
            if self._subsets is not None:
                compiled.subset_sums(self._basis.views(lo, hi), *self._subsets, out)
            else:
                compiled.mixed(self._basis.views(lo, hi), self._mix, out)
            return
        for start, stop in blocks(hi - lo, max(256, _MIXED // max(self.n, self._basis.n))):
            wide = self._scratch.take("wide", self._basis.n, stop - start, dtype="<f8")
            product = self._scratch.take("product", self.n, stop - start, dtype="<f8")
            fill(self._basis, lo + start, lo + stop, wide)
            np.matmul(self._mix, wide, out=product)
            for row, values in zip(out, product, strict=True):
                row[start:stop] = values

    def row(self, index: int, lo: int, hi: int) -> FloatArray:
        """Columns lo..hi of one row, (hi - lo,) float32, not to be written to."""
        return combined(self._basis, self._mix[index], lo, hi).astype(np.float32)


def fill(rows: Rows, lo: int, hi: int, out: Array) -> None:
    """Columns lo..hi of every row into `out`, (n, hi - lo) float32 or float64."""
    for index, values in enumerate(rows.views(lo, hi)):
        out[index] = values


def combined(rows: Rows, shares: Array, lo: int, hi: int) -> Array:
    """Sum of shares[i] * row i over columns lo..hi, (hi - lo,) float64, added up row after row.

    One fixed order and no BLAS: the same bits for any block size and on any machine. Rows of share 0 are not read.
    """
    used = np.flatnonzero(shares)
    every = len(used) == rows.n
    read = rows.views(lo, hi) if every else [rows.row(int(index), lo, hi) for index in used]
    if (compiled := kernels.loaded()) is not None and read:
        return compiled.combined(read, np.asarray(shares[used], dtype=np.float64))
    total, term = np.zeros(hi - lo), np.empty(min(_SUMMED, hi - lo))
    for start, stop in blocks(hi - lo, _SUMMED):
        for index, values in zip(used, read, strict=True):
            np.multiply(values[start:stop], shares[index], out=term[: stop - start], dtype=np.float64)
            total[start:stop] += term[: stop - start]
    return total


def columns(rows: Rows, each: int, most: int = _LONG) -> int:
    """Columns per block so that a block has about `each` values, and never more than `most`."""
    return max(_SHORT, min(most, each // max(1, rows.n)))


def cores() -> int:
    """Threads that work on blocks at once."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(THREADS, available)


def held(rows: Rows) -> int:
    """Columns per block so that all threads together hold `HELD` values. For work whose bits no block size changes."""
    return columns(rows, HELD // cores())
