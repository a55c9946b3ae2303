"""Inner products of all updates from one pass over them, in a form that huge updates cannot blind.

A distance from inner products loses what the products have in common: with a float32 product, or about a far centre, the
distances among honest updates drown in rounding. Here products are added up in float64, about a centre that lies among the
majority; that it does is checked on the result, and where it does not, the pass is repeated about a better one.
"""

import numpy as np

from edgehold.core.vectors import Array, blocks
from edgehold.defenses.baselines.rules.rows import Rows, columns

WIDE = 1 << 19
"""Values of a float64 block: 4 MiB. Larger blocks make the product cheaper, up to here."""
BLIND = 2.0**22
"""Largest ratio of squared distance from the centre to squared radius of the majority: 31 of 53 bits remain."""
NOISE = 2.0**-50
"""Squared distances below this share of their terms are rounding: they count as 0, so that equal rows are equally far."""


def majority_gram(rows: Rows, voters: int) -> Array:
    """Inner products about a centre among the majority of the first `voters` rows, (n + 1, n + 1) float64.

    The last row and column belong to the origin, so that norms and clipping are distances like any other.
    """
    gram, tried = gram_about(rows, None), set[int]()
    while voters > 1:
        centre = blind_spot(gram[:voters, :voters])
        if centre is None or centre in tried:
            return gram
        tried.add(centre)
        gram = gram_about(rows, centre)
    return gram


def gram_about(rows: Rows, centre: int | None) -> Array:
    """Inner products of rows and origin about row `centre` (None: about the origin), (n + 1, n + 1) float64."""
    n, width = rows.n, columns(rows, WIDE)
    gram = np.zeros((n + 1, n + 1))
    wide = np.empty((n + 1, min(width, rows.d)))
    for lo, hi in blocks(rows.d, width):
        block = wide[:, : hi - lo]
        rows.fill(lo, hi, block[:n])
        if centre is None:
            gram[:n, :n] += block[:n] @ block[:n].T
        else:
            block[n] = 0.0
            block -= block[centre].copy()
            gram += block @ block.T
    return gram


def blind_spot(gram: Array) -> int | None:
    """None when the centre is good enough; else the row in whose smallest ball more than half of the rows lie."""
    distances = squared_distances(gram)
    radius = np.sort(distances, axis=1)[:, len(gram) // 2]
    middle = int(np.argmin(radius))
    return middle if gram[middle, middle] > BLIND * radius[middle] else None


def squared_distances(gram: Array) -> Array:
    """Squared distances of points with these inner products, (n, n) float64, symmetric, zero diagonal."""
    square = np.diagonal(gram)
    terms = square[:, None] + square[None, :]
    distances = terms - gram - gram.T
    distances[distances <= NOISE * terms] = 0.0
    np.fill_diagonal(distances, 0.0)
    return np.asarray(distances)
