"""Rules that look at one coordinate at a time: one pass over the updates, block by block of columns.

Each turns (n, columns) float32 into (columns,) float64; the caller adds blocks up to a vector.
"""

from collections.abc import Sequence

import numpy as np

from edgehold.core.vectors import Array, FloatArray, Sink, blocks
from edgehold.defenses.baselines.rules.rows import Rows, columns


def average(rows: Rows, weights: Sequence[float], f: int, sink: Sink) -> None:
    """Weighted mean, added up in float64 row after row: the same bits for any block size and on any machine."""
    shares = np.asarray(weights, dtype=np.float64)
    shares = shares / shares.sum()
    for lo, hi in blocks(rows.d, columns(rows)):
        total = np.zeros(hi - lo)
        term = np.empty(hi - lo)
        for index in range(rows.n):
            term[:] = rows.row(index, lo, hi)
            total += np.multiply(term, shares[index], out=term)
        sink.write(total)


def median(rows: Rows, weights: Sequence[float], f: int, sink: Sink) -> None:
    """Middle value of each coordinate; the mean of the two middle ones for an even number of rows."""
    low, high = (rows.n - 1) // 2, rows.n // 2 + 1
    for lo, hi in blocks(rows.d, columns(rows)):
        sink.write(_mean(ascending(rows.block(lo, hi))[low:high]))


def trimmed_mean(rows: Rows, weights: Sequence[float], f: int, sink: Sink) -> None:
    """Mean of each coordinate after its f smallest and f largest values are dropped."""
    for lo, hi in blocks(rows.d, columns(rows)):
        sink.write(_mean(ascending(rows.block(lo, hi))[f : rows.n - f]))


def ascending(block: FloatArray) -> FloatArray:
    """The rows of (n, columns), each column sorted: any order of the clients gives the same."""
    # Sorting along the last axis of a transposed copy uses vector instructions; along the first it does not.
    return np.sort(np.ascontiguousarray(block.T), axis=1).T


def _mean(ordered: FloatArray) -> Array:
    total = np.zeros(ordered.shape[1])
    for values in ordered:
        total += values
    # Adding to +0 also makes -0 into +0, whose place among equal values a sort does not settle.
    return total / len(ordered)
