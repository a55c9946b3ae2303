"""Inner products of all updates from one pass over them, in a form that huge updates cannot blind.

A distance from inner products loses what the products have in common: about a far centre, the distances among honest updates
drown in rounding. Here the centre lies among the majority; that it does is checked on the result, and where it does not, the
pass is repeated about a better one.

Products are float64 for updates of up to `SHORT` values. Longer ones go through the compiled kernel, where there is one:
float32 products, 64 of which are added up before they go on in float64, about a centre that a sample of the columns gave.
"""

from collections.abc import Callable, Iterable

import numpy as np

from edgehold.core import kernels
from edgehold.core.vectors import Array, blocks
from edgehold.defenses.baselines.rules.ordering import in_order
from edgehold.defenses.baselines.rules.rows import Rows, columns, fill

SHORT = 1 << 17
"""Longer updates are worth the kernel, and long enough for its rounding to average out: see docs/rules.md."""
BLIND, NEAR = 2.0**22, 2.0**4
"""Largest ratio of squared distance from the centre to squared radius of the majority: of float64's 53 bits 31 remain; the
kernel has fewer to lose."""
NOISE = 2.0**-50
"""Squared distances below this share of their terms are rounding: they count as 0, so that equal rows are equally far."""
_WIDE = 1 << 19  # values of a float64 block: 4 MiB; larger blocks make the product cheaper, up to here
_BLOCK = 1 << 22  # values of a block for the kernel
PIECE = 1 << 12
"""Columns whose products are added up before they join the sum: the same for any block, any number of threads and nodes."""
_SAMPLED, _PLACES = 1 << 9, 8  # columns looked at for a first centre, at how many places

About = Callable[[int | None], Array]
"""Inner products of rows and origin about that row (None: about the origin), (n + 1, n + 1) float64."""


def majority_gram(rows: Rows, voters: int) -> Array:
    """Inner products about a centre among the majority of the first `voters` rows, (n + 1, n + 1) float64.

    The last row and column belong to the origin, so that norms and clipping are distances like any other.
    """
    compiled = kernels.loaded() if rows.d > SHORT else None
    if compiled is None:
        whole = list(blocks(rows.d, columns(rows, _WIDE)))
        return _settled(lambda centre: _exact(rows, centre, whole), voters, None, BLIND)
    sample = [(lo, lo + _SAMPLED) for lo in range(0, rows.d - _SAMPLED, rows.d // _PLACES)]
    first = _settled(lambda centre: _exact(rows, centre, sample), voters, None, BLIND)
    middle, _ = _majority(first[:voters, :voters])
    return _settled(lambda centre: _fast(compiled, rows, centre), voters, middle, NEAR)


def _settled(about: About, voters: int, centre: int | None, most: float) -> Array:
    """Inner products about `centre`, and again about better ones until one is good enough."""
    gram, tried = about(centre), {centre}
    while voters > 1:
        better = blind_spot(gram[:voters, :voters], most)
        if better is None or better in tried:
            return gram
        tried.add(better)
        gram = about(better)
    return gram


def _exact(rows: Rows, centre: int | None, spans: Iterable[tuple[int, int]]) -> Array:
    n, wide = rows.n, np.empty(0)
    gram = np.zeros((n + 1, n + 1))
    for lo, hi in spans:
        if wide.size < (n + 1) * (hi - lo):
            wide = np.empty((n + 1) * (hi - lo))
        block = wide[: (n + 1) * (hi - lo)].reshape(n + 1, hi - lo)
        fill(rows, lo, hi, block)
        if centre is None:
            gram[:n, :n] += block[:n] @ block[:n].T
        else:
            block[n] = 0.0
            block -= block[centre].copy()
            gram += block @ block.T
    return gram


def _fast(compiled: kernels.Kernels, rows: Rows, centre: int | None) -> Array:
    assert centre is not None, "float32 products need a centre among the rows"
    total = np.zeros((rows.n + 1, rows.n + 1))

    def add(parts: Array) -> None:
        for part in parts:  # piece by piece, in order
            np.add(total, part, out=total)

    spans = list(blocks(rows.d, max(1, columns(rows, _BLOCK) // PIECE) * PIECE))
    in_order(spans, lambda span: compiled.grams(rows.views(*span), centre, PIECE), add)
    return np.triu(total) + np.triu(total, 1).T


def blind_spot(gram: Array, most: float) -> int | None:
    """None when the centre is good enough; else the row in whose smallest ball more than half of the rows lie."""
    middle, radius = _majority(gram)
    return middle if gram[middle, middle] > most * radius else None


def _majority(gram: Array) -> tuple[int, float]:
    """The row in whose smallest ball more than half of the rows lie, and the squared radius of that ball."""
    radius = np.sort(squared_distances(gram), axis=1)[:, len(gram) // 2]
    middle = int(np.argmin(radius))
    return middle, float(radius[middle])


def squared_distances(gram: Array) -> Array:
    """Squared distances of points with these inner products, (n, n) float64, symmetric, zero diagonal."""
    square = np.diagonal(gram)
    terms = square[:, None] + square[None, :]
    distances = terms - gram - gram.T
    distances[distances <= NOISE * terms] = 0.0
    np.fill_diagonal(distances, 0.0)
    return np.asarray(distances)
