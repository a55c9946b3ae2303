"""Rules from the distances between updates: two passes over column blocks and a small n x n problem between them."""

from collections.abc import Sequence

import numpy as np

from edgehold.core.vectors import Array, Sink, blocks
from edgehold.defenses.baselines.rules.coordinatewise import ascending
from edgehold.defenses.baselines.rules.rows import CACHED, Rows, columns

TIE = 1e-9
"""Scores this close, as a share, count as equal; rounding must not decide between two updates, their order does."""


def squared_distances(rows: Rows) -> Array:
    """Squared Euclidean distances between all rows, (n, n) float64, symmetric with a zero diagonal.

    From a float64 Gram matrix of rows centred at a middle value of each coordinate. A mean would be dragged to the largest
    outlier and honest rows would lose their distances to cancellation; a middle value stays among the majority. Values up
    to 3e38 square to 1e77, far inside float64.
    """
    gram = np.zeros((rows.n, rows.n))
    for lo, hi in blocks(rows.d, columns(rows, CACHED // 2)):
        block = rows.block(lo, hi)
        wide = block.astype(np.float64)
        wide -= ascending(block)[rows.n // 2]
        gram += wide @ wide.T
    square = np.diagonal(gram)
    distances = square[:, None] + square[None, :] - 2.0 * gram
    distances = np.maximum(distances, 0.0)
    np.fill_diagonal(distances, 0.0)
    return np.maximum(distances, distances.T)


def krum_scores(distances: Array, f: int) -> Array:
    """Sum of squared distances to the n - f - 2 nearest others, (n,). Source: Blanchard et al. 2017, section 4."""
    n = len(distances)
    others = np.sort(distances + np.diag(np.full(n, np.inf)), axis=1)
    return np.asarray(others[:, : n - f - 2].sum(axis=1))


def first_smallest(scores: Array) -> int:
    """Index of the smallest score; the first of those that are equal within rounding."""
    return int(np.flatnonzero(scores <= scores.min() * (1.0 + TIE))[0])


def krum(rows: Rows, weights: Sequence[float], f: int, sink: Sink) -> None:
    """The one update that lies closest to its n - f - 2 nearest neighbours, unchanged."""
    chosen = first_smallest(krum_scores(squared_distances(rows), f))
    for lo, hi in blocks(rows.d):
        sink.write(rows.row(chosen, lo, hi))
