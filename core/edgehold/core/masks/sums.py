"""The sum over a group, unmasked: numbers modulo a power of two, read as the integers they stand for."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from edgehold.core.vectors import BLOCK, Array


@dataclass(frozen=True, slots=True)
class GroupSum:
    """survivors: whose vectors were added, in node order. residues: (entries,) unsigned, the sum modulo their width.

    margin: what noise may have added in either direction: residues less than that below the modulus are negative.
    """

    survivors: tuple[str, ...]
    residues: Array = field(repr=False)
    margin: int = 0

    def blocks(self, size: int = BLOCK) -> Iterator[Array]:
        """The sum as int64, `size` numbers at a time."""
        for start in range(0, len(self.residues), size):
            yield self.read(start, min(start + size, len(self.residues)))

    def read(self, start: int, stop: int) -> Array:
        """Entries start..stop as int64."""
        modulus = 1 << 8 * self.residues.itemsize
        wide = self.residues[start:stop].astype(np.int64)
        if self.margin:
            wide[wide >= modulus - self.margin] -= modulus
        return wide
