"""Updates as rows of a matrix that never stands in memory as a whole."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from edgehold.core.errors import WrongShape
from edgehold.core.vectors import BLOCK, FloatArray, Vector

CACHED = 1 << 17
"""Values of an (n, columns) block: half a MiB of float32, so that a block is still in the cache when it is used again."""


class Rows(Protocol):
    """n updates of d values each, read by blocks of columns."""

    @property
    def n(self) -> int:
        """Number of rows."""

    @property
    def d(self) -> int:
        """Number of columns."""

    def block(self, lo: int, hi: int) -> FloatArray:
        """Columns lo..hi of every row, (n, hi - lo) float32, the caller's own copy."""

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
        for index, vector in enumerate(self._vectors):
            np.multiply(vector.read(lo, hi), np.float32(self._scales[index]), out=out[index])
        return out

    def row(self, index: int, lo: int, hi: int) -> FloatArray:
        """Columns lo..hi of one row, (hi - lo,) float32, not to be written to."""
        return np.multiply(self._vectors[index].read(lo, hi), np.float32(self._scales[index]))


def columns(rows: Rows, each: int = CACHED) -> int:
    """Columns per block so that a block has about `each` values, and never more than a vector's own block."""
    return max(256, min(BLOCK, each // max(1, rows.n)))
