"""Rankings as whole numbers that can be summed under masks: each edge's rank, layer after layer in the order of the model.

A ranking can no longer be seen to be one; a sum of rankings can be seen to have every layer's total, and no entry beyond it.
"""

from collections.abc import Iterator

import numpy as np

from edgehold.core.errors import WrongShape
from edgehold.core.masks import laws
from edgehold.core.masks.terms import Terms
from edgehold.core.vectors import Array, Schema
from edgehold.defenses.frl.forms import pieces_of
from edgehold.defenses.frl.state import Settings, Update
from edgehold.defenses.layers import layers_of


class RankForm:
    """edges: of every layer."""

    def __init__(self, edges: tuple[int, ...]) -> None:
        self.entries, self.largest = sum(edges), _largest(edges)
        self._edges = edges

    def vector(self, update: Update) -> Iterator[Array]:
        """Ranks as int64; `WrongShape` for those of another model, or of the top edges alone."""
        if update.top < 1.0:
            raise WrongShape("ranks of the top edges alone; under masks all edges are ranked")
        if len(update.ranks) != len(self._edges):
            raise WrongShape(f"ranks of {len(update.ranks)} layers; the model has {len(self._edges)}")
        for number, edges in enumerate(self._edges):
            found = 0
            for start, piece in pieces_of(update.ranks, number):
                found = start + len(piece)
                yield piece.astype(np.int64)
            if found != edges:
                raise WrongShape(f"{found} ranks of layer {number + 1}; it has {edges} edges")

    def law(self, sums: Iterator[Array], survivors: int) -> None:
        """In each layer of L edges entries up to s (L - 1), and the total of s permutations."""
        laws.ranked(sums, survivors, self._edges)


def entries(settings: Settings, schema: Schema) -> int:
    """One per edge."""
    return sum(_edges(schema))


def largest(settings: Settings, schema: Schema) -> int:
    """The last rank of the largest layer."""
    return _largest(_edges(schema))


def form(schema: Schema, terms: Terms) -> RankForm:
    """`WrongShape` for terms of another model, or of real numbers."""
    found = RankForm(_edges(schema))
    if terms.clip or (terms.entries, terms.largest) != (found.entries, found.largest):
        raise WrongShape(
            f"terms of a sum with {terms.entries} entries up to {terms.largest} and a clip of {terms.clip:g}; rankings of this "
            f"model have {found.entries} up to {found.largest}, and no clip"
        )
    return found


def _edges(schema: Schema) -> tuple[int, ...]:
    return tuple(layer.edges for layer in layers_of(schema, "FRL"))


def _largest(edges: tuple[int, ...]) -> int:
    # A model of single edges has nothing to rank, but its numbers are still whole ones.
    return max(1, max(edges) - 1)
