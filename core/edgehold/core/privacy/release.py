"""Releasing vectors under Gaussian noise: both are brought to the noise's grid of integers, on which nothing rounds."""

from math import sqrt

import numpy as np

from edgehold.core.privacy.events import Gaussian
from edgehold.core.privacy.noise import Noise, gap
from edgehold.core.privacy.rounded import DEVIATION
from edgehold.core.vectors import Array

GRID = 1.0 / DEVIATION
"""Step of the grid, in deviations of the noise."""
_FARTHEST = 2.0**62
"""Of a value, in steps of the grid: cutting there brings neighbours no farther apart, an overflow would."""


def noised(values: Array, sigma: float, noise: Noise) -> Array:
    """(n,) float64: `values` rounded to the grid, plus noise of deviation `sigma`; a function of integers that may be known."""
    step = GRID * sigma
    with np.errstate(over="ignore"):
        whole = np.clip(np.rint(values / step), -_FARTHEST, _FARTHEST).astype(np.int64)
    whole += noise.draw(len(values))
    found: Array = whole * step
    return found


def grid_shift(size: int) -> float:
    """What rounding to the grid can add to the distance of two vectors of `size` values, in deviations of the noise."""
    return sqrt(size) * GRID


def clipped(values: Array, clip: float) -> Array:
    """(n,) float64 of norm `clip` at most: projected on that ball. Zeros for what is not finite: an error would tell of it."""
    wide = values.astype(np.float64)
    norm = float(np.sqrt(np.add.reduce(wide * wide)))
    if not np.isfinite(norm):
        return np.zeros(len(wide))
    return wide if norm <= clip else wide * (clip / norm)


def whole_vector(size: int, clip: float, sigma: float) -> Gaussian:
    """The event of one clipped vector, whatever it was computed from: any two differ by twice the clip at most."""
    sensitivity = 2 * clip * (1 + 2.0**-40) + grid_shift(size) * sigma
    return Gaussian(sensitivity=sensitivity, sigma=sigma, sampler=gap(size))
