"""n points, each a combination of the updates: what rules work on.

A pre-step that mixes or scales updates changes n x m coefficients and no update. Distances follow from one Gram matrix of
the updates, read once at the first question; the result is one weighted sum of the updates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from edgehold.core.vectors import Array, FloatArray, Sink, Vector, blocks
from edgehold.defenses.baselines.rules.gram import NOISE, majority_gram, squared_distances
from edgehold.defenses.baselines.rules.ordering import in_order
from edgehold.defenses.baselines.rules.rows import MixedRows, Rows, combined, held

_EXACT = 256
"""Up to this many points distances between combinations come from differences of coefficients, without cancellation."""


class WithPrevious:
    """Rows followed by one more: the last combined update."""

    def __init__(self, rows: Rows, previous: Vector) -> None:
        self._rows, self._previous = rows, previous
        self.n, self.d = rows.n + 1, rows.d

    def views(self, lo: int, hi: int) -> Sequence[FloatArray]:
        """As `Rows.views`."""
        return [*self._rows.views(lo, hi), self._previous.read(lo, hi)]

    def row(self, index: int, lo: int, hi: int) -> FloatArray:
        """As `Rows.row`."""
        return self._previous.read(lo, hi) if index == self._rows.n else self._rows.row(index, lo, hi)


class Basis:
    """The updates themselves (and the previous result, if a rule remembers it) with their Gram matrix, worked out once."""

    def __init__(self, updates: Rows, previous: Vector | None = None) -> None:
        self.voters = updates.n
        self.rows: Rows = updates if previous is None else WithPrevious(updates, previous)
        self.start = updates.n  # index of the previous result, or else of the origin

    @cached_property
    def gram(self) -> Array:
        """Inner products of all rows and, last, the origin; (rows.n + 1, rows.n + 1)."""
        return majority_gram(self.rows, self.voters)


@dataclass(frozen=True)
class Cloud:
    """coefficients: (n, rows.n + 1) float64, each row sums to 1; the last column is the origin's share. None: the updates.

    weights: claimed by the clients, (n,); only the average looks at them. clients: names, while points still have one.
    """

    basis: Basis
    weights: Array
    clients: Sequence[str] = ()
    coefficients: Array | None = field(default=None)

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.weights)

    @cached_property
    def shares(self) -> Array:
        """The coefficients, whether or not anything was mixed."""
        if self.coefficients is not None:
            return self.coefficients
        return np.eye(self.n, self.basis.rows.n + 1)

    @property
    def start(self) -> Array:
        """Coefficients of the previous result, of the origin when there is none."""
        return np.asarray(np.eye(self.basis.rows.n + 1)[self.basis.start])

    @cached_property
    def gram(self) -> Array:
        """Inner products of the points about the centre of the basis, (n, n)."""
        return self.inner(self.shares) if self.coefficients is not None else self.basis.gram[: self.n, : self.n]

    def inner(self, shares: Array) -> Array:
        """Inner products, about that centre, of points with these coefficients."""
        return np.asarray(shares @ self.basis.gram @ shares.T)

    @cached_property
    def distances(self) -> Array:
        """Squared distances between the points, (n, n), symmetric with a zero diagonal."""
        if self.coefficients is None or self.n > _EXACT:
            return squared_distances(self.gram)
        distances = np.zeros((self.n, self.n))
        for index in range(self.n - 1):
            distances[index, index + 1 :] = self.lengths(self.shares[index + 1 :] - self.shares[index])
        return np.maximum(distances, distances.T)

    @cached_property
    def norms(self) -> Array:
        """Euclidean norms of the points, (n,)."""
        origin = np.eye(self.basis.rows.n + 1)[-1]
        return np.asarray(np.sqrt(self.lengths(self.shares - origin)))

    def lengths(self, differences: Array) -> Array:
        """Squared norms of combinations whose coefficients sum to 0, (rows of `differences`,); rounding counts as 0."""
        gram = self.basis.gram
        squares = ((differences @ gram) * differences).sum(axis=1)
        terms = (np.abs(differences) @ np.sqrt(np.diagonal(gram))) ** 2
        return np.asarray(np.where(squares > NOISE * terms, squares, 0.0))

    def mixed(self, mix: Array, clients: Sequence[str] = ()) -> "Cloud":
        """The points mix @ points, which all count the same; mix: (n', n), rows sum to 1. clients: their names, if any."""
        return Cloud(self.basis, np.ones(len(mix)), clients, mix @ self.shares)

    def scaled(self, factors: Array) -> "Cloud":
        """Every point drawn towards the origin by its factor."""
        shares = self.shares * factors[:, None]
        shares[:, -1] += 1.0 - factors
        return replace(self, coefficients=shares)

    def rows(self, chosen: Array | None = None) -> Rows:
        """The points (or those with the chosen indices) as rows, for rules that look at coordinates."""
        if self.coefficients is None and chosen is None and self.basis.rows.n == self.n:
            return self.basis.rows
        shares = self.shares if chosen is None else self.shares[chosen]
        return MixedRows(self.basis.rows, shares[:, :-1])

    def write(self, weights: Array, sink: Sink) -> None:
        """The weighted sum of the points, weights summing to 1."""
        self.write_shares(weights @ self.shares, sink)

    def write_shares(self, shares: Array, sink: Sink) -> None:
        """The combination of updates with these coefficients, one pass over those that have a share."""
        rows = self.basis.rows
        spans = list(blocks(rows.d, held(rows)))
        in_order(spans, lambda span: combined(rows, shares[:-1], *span), sink.write)
