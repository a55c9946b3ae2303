"""Changes of a model as whole numbers that can be summed under masks: clipped, on the grid of the sum's terms."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from edgehold.core.errors import WrongShape
from edgehold.core.masks import laws
from edgehold.core.masks.terms import Terms
from edgehold.core.vectors import BLOCK, Array, Schema, Vector, finite_norm


class Change(Protocol):
    """An update that is a change of a vector of reals."""

    @property
    def delta(self) -> Vector: ...


class ChangeForm:
    """The change, first scaled down to the norm that the terms allow, then cut entry by entry to their clip."""

    def __init__(self, terms: Terms) -> None:
        if not terms.clip:
            raise WrongShape("terms without a clip, for a sum of real numbers")
        self.entries, self.largest = terms.entries, terms.largest
        self._grid, self._norm, self._margin = terms.grid, terms.norm, terms.margin

    def vector(self, update: Change) -> Iterator[Array]:
        """Whole numbers in [0, largest], block by block."""
        delta = update.delta
        if delta.size != self.entries:
            raise WrongShape(f"a change of {delta.size} values; the sum has {self.entries} entries")
        norm = finite_norm(delta) if self._norm else 0.0
        scale = self._norm / norm if norm > self._norm else 1.0
        for start in range(0, delta.size, BLOCK):
            values = delta.read(start, min(start + BLOCK, delta.size)).astype(np.float64)
            yield self._grid.encode(values * scale if scale < 1 else values)

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
