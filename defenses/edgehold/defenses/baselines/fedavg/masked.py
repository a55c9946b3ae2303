"""Changes of a model as whole numbers that can be summed under masks: clipped, on the grid of the sum's terms."""

import hashlib
from collections.abc import Iterator
from math import sqrt
from typing import Any, Protocol

import numpy as np

from edgehold.core.errors import WrongShape
from edgehold.core.masks import laws
from edgehold.core.masks.terms import Terms
from edgehold.core.vectors import Array, Schema, Vector, blocks, finite_norm


class Change(Protocol):
    """An update that is a change of a vector of reals."""

    @property
    def delta(self) -> Vector: ...


class ChangeForm:
    """The change, first scaled down to the norm that the terms allow, then cut entry by entry to their clip.

    With a norm the whole numbers keep to it too, counted from the grid's middle: what noise is sized for is then exact,
    whatever rounding does. On a coarse grid (under noise, or of few bits) values are rounded at random and without bias, by a
    stream of their own that terms and change fix: the same update gives the same numbers.
    """

    def __init__(self, terms: Terms) -> None:
        if not terms.clip:
            raise WrongShape("terms without a clip, for a sum of real numbers")
        self.entries, self.largest = terms.entries, terms.largest
        self._grid, self._norm, self._margin = terms.grid, terms.norm, terms.margin
        self._coarse = terms.variance > 0 or terms.bits < 32
        self._transcript = terms.transcript

    def vector(self, update: Change) -> Iterator[Array]:
        """Whole numbers in [0, largest], block by block."""
        if update.delta.size != self.entries:
            raise WrongShape(f"a change of {update.delta.size} values; the sum has {self.entries} entries")
        seed = self._seed(update.delta) if self._coarse else None
        scale = self._scale(update.delta, seed) if self._norm else 1.0
        return self._encoded(update.delta, scale, seed)

    def _seed(self, delta: Vector) -> int:
        digest = hashlib.sha256(self._transcript)
        for start, stop in blocks(delta.size):
            digest.update(delta.read(start, stop).data)
        return int.from_bytes(digest.digest(), "little")

    def _encoded(self, delta: Vector, scale: float, seed: int | None) -> Iterator[Array]:
        chance = np.random.default_rng(seed) if seed is not None else None
        for start, stop in blocks(delta.size):
            values = delta.read(start, stop).astype(np.float64)
            yield self._grid.encode(values * scale if scale < 1 else values, chance.random(len(values)) if chance else None)

    def _scale(self, delta: Vector, seed: int | None) -> float:
        """By how much to shrink it, so that it keeps to the norm as it lies on the grid."""
        norm, most = finite_norm(delta), self._norm / self._grid.step
        scale = self._norm / norm if norm > self._norm else 1.0
        while True:
            squares = 0
            for block in self._encoded(delta, scale, seed):
                middle = block - self._grid.half
                squares += int(middle @ middle)
            if squares <= most * most:
                return scale
            # Rounding away from zero made it longer: a little shorter, once or twice, and it fits.
            scale *= most / sqrt(squares) * (1 - 1e-6)

    def law(self, sums: Iterator[Array], survivors: int) -> None:
        """Each entry within what so many clipped ones can give, and noise."""
        laws.bounded(sums, survivors, self.largest, self._margin)


def entries(settings: Any, schema: Schema) -> int:
    """As many as the model has."""
    return schema.size


def largest(settings: Any, schema: Schema) -> int:
    """Reals."""
    return 0


def form(schema: Schema, terms: Terms) -> ChangeForm:
    """`WrongShape` for terms of another model."""
    if terms.entries != schema.size:
        raise WrongShape(f"terms of a sum with {terms.entries} entries; the model has {schema.size}")
    return ChangeForm(terms)
