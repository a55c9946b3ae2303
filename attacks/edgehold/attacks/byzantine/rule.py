"""The server's rule as liars know it (+A), and what it makes of lies along one line, base + tau * push.

Inner products of the honest updates, base and push are worked out once. Distances between any two points of a round are
quadratics in tau from then on, so that rules which follow from inner products cost O(n^2) a try, whatever the model's size.
Rules that look at coordinates are tried on a fixed random subset of them, with all distances exact.
Source: the attack catalogue of this project, 1.5; the rules themselves are the server's own code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt

import numpy as np

from edgehold.attacks.byzantine.sight import Sight, last_step
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import Array, FloatArray, Vector, blocks
from edgehold.defenses.baselines.rules import Recipe, Round, Rows, VectorRows, recipe
from edgehold.defenses.baselines.rules.cloud import Basis, Cloud
from edgehold.defenses.baselines.rules.distance import bulyan_selection
from edgehold.defenses.baselines.rules.gram import majority_gram, squared_distances
from edgehold.defenses.baselines.rules.options import Value

SAMPLE = 1 << 16
"""Coordinates on which rules that look at coordinates are tried."""
SELECTING = ("krum", "multi_krum", "mda", "monna", "bulyan")
"""Rules that leave updates out as a whole; lies must be among those that stay."""


@dataclass(frozen=True)
class ServerRule:
    """A rule by its name in the plan, its options, and how many liars it is told to withstand.

    Departure: weights, clipping and momentum of the server are not part of it; ask the outcome where they matter.
    """

    name: str
    liars: int
    options: Mapping[str, Value] = field(default_factory=dict)

    @cached_property
    def recipe(self) -> Recipe:
        """Checked; `ConfigError` for unknown names."""
        return recipe(self.name, self.options)

    def line(self, sight: Sight, base: Array, push: Array) -> "Line":
        """What the rule makes of lies base + tau * push; both (d,).

        With everybody's honest updates known this is the round itself. With the liars' own m alone it is a smaller round: m
        honest clients, and liars in the same proportion; `ConfigError` where the rule cannot work with so few.
        """
        honest, known = clients_of(sight), len(sight.known)
        copies, told = sight.liars, self.liars
        names = [*sight.known, *sight.own]
        if known != honest or not sight.others:
            copies, told = (max(1, round(count * known / honest)) if count else 0 for count in (copies, told))
            names = [*sight.known, *(f"~{index}" for index in range(copies))]
        try:
            self.recipe.check(known + copies, told)
        except ConfigError as error:
            raise ConfigError(f"the liars know {known} updates, too few to play the server's rule: {error.message}") from None
        previous = last_step(sight) if self.recipe.remembers else None
        rows = list(sight.known.values())
        return Line(self.recipe, told, rows, names, copies, base, push, previous)


def clients_of(sight: Sight) -> int:
    """How many honest clients a round has."""
    return max(1, sight.clients - sight.liars)


class Line:
    """Lies along a line under one rule.

    told: liars the rule is told of. rows: honest updates, (d,) float32 each. names: of honest clients, then of liars.
    """

    def __init__(
        self, made: Recipe, told: int, rows: Sequence[FloatArray], names: Sequence[str], copies: int, base: Array, push: Array,
        previous: Array | None,
    ) -> None:  # fmt: skip
        self._recipe, self._told, self._rows, self._copies = made, told, rows, copies
        self._base, self._push = base, push
        self._honest = len(rows)
        self._order = sorted(range(len(names)), key=lambda index: names[index])
        self._names = [names[index] for index in self._order]
        self._last = None if previous is None else previous.astype(np.float32)
        self._sampled = made.rule.looks and len(base) > SAMPLE
        self._places = (
            np.sort(stream(0, "sample", len(base)).choice(len(base), SAMPLE, replace=False)) if self._sampled else None
        )

    @property
    def sampled(self) -> bool:
        """Whether scores come from part of the coordinates."""
        return self._sampled

    @cached_property
    def _gram(self) -> Array:
        extra = [self._base.astype(np.float32), self._push.astype(np.float32)]
        extra += [] if self._last is None else [self._last]
        return majority_gram(VectorRows([Vector.of(row) for row in [*self._rows, *extra]]), self._honest)

    @cached_property
    def _part(self) -> tuple[list[FloatArray], Array, Array, Array, FloatArray | None]:
        """Rows, base, push, honest mean and last result at the coordinates that are looked at."""
        at = slice(None) if self._places is None else self._places
        rows = [row[at] for row in self._rows]
        middle = np.mean(np.array(rows, dtype=np.float64), axis=0)
        return rows, self._base[at], self._push[at], middle, None if self._last is None else self._last[at]

    def _products(self, tau: float) -> Array:
        """Inner products of the round's points, of the last result where there is one, and of the origin, about some centre."""
        size, h = len(self._gram), self._honest
        points = np.zeros((h + self._copies, size))
        points[:h, :h] = np.eye(h)
        points[h:, h], points[h:, h + 1], points[h:, -1] = 1.0, tau, -tau
        rest = np.eye(size)[-1 if self._last is None else -2 :]
        every = np.vstack([points[self._order], rest])
        return np.asarray(every @ self._gram @ every.T)

    def _fold(self, gram: Array, rows: Rows, sink: "_Kept | _Away") -> None:
        n = self._honest + self._copies
        now = Round(self._told, (), self._names, None, stream(0, "draw"))
        self._recipe.fold(Cloud(_Measured(rows, gram, n), np.ones(n), self._names), now, sink)

    def _weights(self, gram: Array) -> Array:
        """What the rule multiplies each point (and the last result) with, the origin left out."""
        sink = _Kept()
        unit = np.eye(len(gram) - 1, dtype=np.float32)
        self._fold(gram, VectorRows([Vector.of(row) for row in unit]), sink)
        return np.concatenate(sink.parts)

    def score(self, tau: float) -> float:
        """Distance of the rule's result from the honest mean; on part of the coordinates when `sampled`."""
        gram = self._products(tau)
        if self._recipe.rule.looks:
            rows, base, push, middle, last = self._part
            return self._distance(tau, gram, rows, base, push, middle, last)
        shares = np.append(self._weights(gram), 0.0)
        shares[-1] = 1.0 - shares.sum()
        even = np.zeros(len(gram))
        even[[place for place, index in enumerate(self._order) if index < self._honest]] = 1.0 / self._honest
        away = shares - even
        return sqrt(max(float(away @ gram @ away), 0.0))

    def exact(self, tau: float) -> float:
        """The same on all coordinates."""
        if not self._sampled:
            return self.score(tau)
        return self._distance(tau, self._products(tau), self._rows, self._base, self._push, self._mean, self._last)

    @cached_property
    def _mean(self) -> Array:
        total = np.zeros(len(self._base))
        for start, stop in blocks(len(total), 1 << 14):
            for row in self._rows:
                total[start:stop] += row[start:stop]
        return total / self._honest

    def _distance(
        self, tau: float, gram: Array, rows: Sequence[FloatArray], base: Array, push: Array, middle: Array,
        last: FloatArray | None,
    ) -> float:  # fmt: skip
        lie = (base + tau * push).astype(np.float32)
        points = [*rows, *[lie] * self._copies]
        vectors = [points[index] for index in self._order] + ([] if last is None else [last])
        sink = _Away(middle)
        self._fold(gram, VectorRows([Vector.of(row) for row in vectors]), sink)
        return sqrt(sink.square)

    @property
    def selects(self) -> bool:
        """Whether the rule leaves updates out as a whole, so that lies must be picked."""
        return self._recipe.rule.card.name in SELECTING and not self._recipe.steps

    def picked(self, tau: float) -> bool:
        """Whether the rule keeps the lies: all of them, or one where it keeps only one."""
        gram, n = self._products(tau), self._honest + self._copies
        lies = np.array([place for place, index in enumerate(self._order) if index >= self._honest])
        if self._recipe.rule.card.name == "bulyan":
            kept = bulyan_selection(squared_distances(gram[:n, :n]), self._told)
            return bool(np.isin(lies, kept).all())
        weights = self._weights(gram)[:n]
        return bool(weights[lies].any() if self._recipe.rule.card.name == "krum" else (weights[lies] > 0).all())


class _Measured(Basis):
    """Points whose inner products are known: n of them, the last result, the origin."""

    def __init__(self, rows: Rows, gram: Array, voters: int) -> None:
        self.voters, self.rows, self.start, self.gram = voters, rows, voters, gram


class _Kept:
    def __init__(self) -> None:
        self.parts: list[Array] = []

    def write(self, values: Array) -> None:
        self.parts.append(values.copy())

    def finish(self) -> Vector:
        raise AssertionError("nobody reads it back")


class _Away:
    """Adds up the squared distance from a point as the result is written."""

    def __init__(self, point: Array) -> None:
        self._point, self._at, self.square = point, 0, 0.0

    def write(self, values: Array) -> None:
        away = values - self._point[self._at : self._at + len(values)]
        self._at += len(values)
        self.square += float(away @ away)

    def finish(self) -> Vector:
        raise AssertionError("nobody reads it back")
