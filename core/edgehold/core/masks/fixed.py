"""Real numbers as whole ones that can be added under masks: clipped, on a grid, shifted so that none is below zero."""

from dataclasses import dataclass

import numpy as np

from edgehold.core.errors import NotFinite
from edgehold.core.vectors import Array


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """clip: entries are cut to [-clip, clip]; half: steps from 0 to clip, so that entries are whole numbers in [0, 2 half].

    Sums are exact: decoding a sum gives the sum of the entries as they lie on the grid. Between them and the clipped reals lies
    half a step at most for each device: `error(survivors)`.
    """

    clip: float
    half: int

    @classmethod
    def finest(cls, clip: float, members: int, bits: int, margin: int = 0) -> "FixedPoint":
        """The finest grid whose sums of so many members, with a margin for noise on both sides, do not wrap."""
        half = ((1 << bits) - 1 - 2 * margin) // members // 2
        if half < 1 or not 0 < clip < np.inf:
            raise ValueError(f"no grid for clip {clip:g} and {members} members in {bits} bits with a margin of {margin}")
        return cls(clip, half)

    @property
    def step(self) -> float:
        """Distance of two numbers on the grid."""
        return self.clip / self.half

    @property
    def largest(self) -> int:
        """The largest entry."""
        return 2 * self.half

    def encode(self, values: Array, chance: Array | None = None) -> Array:
        """int64 in [0, largest]; `NotFinite` for what is no number: it has no place on a grid.

        Rounded to the nearest step; with `chance`, a number from [0, 1) for each, up or down so that the expectation is the
        value itself: on a coarse grid, as noise wants one, small values would all vanish otherwise.
        """
        if not np.isfinite(values).all():
            raise NotFinite("an update with NaN or infinity cannot be put on a grid")
        cut = np.clip(values.astype(np.float64), -self.clip, self.clip)
        steps = cut * (self.half / self.clip)
        whole = np.rint(steps) if chance is None else np.floor(steps + chance)
        found: Array = whole.astype(np.int64) + self.half
        # Where clip / half is not exact the product may be off by a step's 2^-52, which rint forgives but at the ends.
        return np.clip(found, 0, self.largest, out=found)

    def decode(self, sums: Array, survivors: int) -> Array:
        """float64: sums of reals, from sums (int64) over so many devices."""
        found: Array = (sums - survivors * self.half) * self.step
        return found

    def error(self, survivors: int) -> float:
        """Most that a decoded sum of so many clipped entries is off: half a step each, and float64's rounding."""
        return survivors * (self.step / 2 + 4 * self.clip * 2.0**-52)
