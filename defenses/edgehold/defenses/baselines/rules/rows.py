"""Updates as rows of a matrix that never stands in memory as a whole."""

import threading
from collections.abc import Sequence
from math import prod
from typing import Protocol

import numpy as np

from edgehold.core.errors import WrongShape
from edgehold.core.vectors import BLOCK, Array, FloatArray, Vector, blocks

CACHED = 1 << 17
"""Values of an (n, columns) block: half a MiB of float32, so that a block is still in the cache when it is used again."""


_MIXED = 1 << 18  # values of a float64 block that is mixed: 2 MiB


class Rows(Protocol):
    """n updates of d values each, read by blocks of columns; safe to read from several threads."""

    @property
    def n(self) -> int:
        """Number of rows."""

    @property
    def d(self) -> int:
        """Number of columns."""

    def fill(self, lo: int, hi: int, out: Array) -> None:
        """Write columns lo..hi of every row, float32 values, into `out`, (n, hi - lo) float32 or float64."""

    def row(self, index: int, lo: int, hi: int) -> FloatArray:
        """Columns lo..hi of one row, (hi - lo,) float32, not to be written to."""


class VectorRows:
    """Rows over vectors of one length, each multiplied by its scale (1 by default)."""

    def __init__(self, vectors: Sequence[Vector], scales: Sequence[float] | None = None) -> None:
        self._vectors = vectors
        self._scales = scales or [1.0] * len(vectors)
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

    def block(self, lo: int, hi: int) -> FloatArray:
        """Columns lo..hi of every row, (n, hi - lo) float32, the caller's own copy."""
        out = np.empty((self.n, hi - lo), dtype=np.float32)
        self.fill(lo, hi, out)
        return out

    def fill(self, lo: int, hi: int, out: Array) -> None:
        """Write columns lo..hi of every row, float32 values, into `out`, (n, hi - lo) float32 or float64."""
        for index in range(self.n):
            out[index] = self.row(index, lo, hi)

    def row(self, index: int, lo: int, hi: int) -> FloatArray:
        """Columns lo..hi of one row, (hi - lo,) float32, not to be written to."""
        values = self._vectors[index].read(lo, hi)
        scale = self._scales[index]
        return values if scale == 1.0 else np.multiply(values, np.float32(scale))


class Scratch(threading.local):
    """Buffers that a thread uses again for every block, so that blocks cost no fresh memory."""

    def __init__(self) -> None:
        self._kept: dict[str, Array] = {}

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
        used = mix != 0.0
        single = (used.sum(axis=1) == 1) & (mix.max(axis=1, initial=0.0) == 1.0)
        self._copied = used.argmax(axis=1) if bool(single.all()) else None

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self._mix)

    @property
    def d(self) -> int:
        """Number of columns."""
        return self._basis.d

    def fill(self, lo: int, hi: int, out: Array) -> None:
        """Write columns lo..hi of every row, float32 values, into `out`, (n, hi - lo) float32 or float64."""
        if self._copied is not None:
            for index, source in enumerate(self._copied):
                out[index] = self._basis.row(int(source), lo, hi)
            return
        for start, stop in blocks(hi - lo, max(256, _MIXED // max(self.n, self._basis.n))):
            wide = self._scratch.take("wide", self._basis.n, stop - start, dtype="<f8")
            product = self._scratch.take("product", self.n, stop - start, dtype="<f8")
            self._basis.fill(lo + start, lo + stop, wide)
            np.matmul(self._mix, wide, out=product)
            np.copyto(out[:, start:stop], product, casting="same_kind")
            if out.dtype != np.float32:
                out[:, start:stop] = out[:, start:stop].astype(np.float32)

    def row(self, index: int, lo: int, hi: int) -> FloatArray:
        """Columns lo..hi of one row, (hi - lo,) float32, not to be written to."""
        return combined(self._basis, self._mix[index], lo, hi).astype(np.float32)


def combined(rows: Rows, shares: Array, lo: int, hi: int) -> Array:
    """Sum of shares[i] * row i over columns lo..hi, (hi - lo,) float64, added up row after row.

    One fixed order and no BLAS: the same bits for any block size and on any machine. Rows of share 0 are not read.
    """
    total, term = np.zeros(hi - lo), np.empty(hi - lo)
    for index in np.flatnonzero(shares):
        term[:] = rows.row(int(index), lo, hi)
        if shares[index] != 1.0:
            np.multiply(term, shares[index], out=term)
        total += term
    return total


def columns(rows: Rows, each: int = CACHED, most: int = BLOCK) -> int:
    """Columns per block so that a block has about `each` values, and never more than `most`."""
    return max(256, min(most, each // max(1, rows.n)))
