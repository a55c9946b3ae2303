"""Skellam noise: the difference of two Poisson variables of one mean, on the integers. Sums of it are Skellam again, exactly,
which is why it serves where many devices add a share of the noise each: sums of rounded or discrete Gaussians are neither.

P(k) = e^-V I_k(V) for variance V. Chances come from the recurrence I_{k-1} = I_{k+1} + (2k / V) I_k, downward from far outside
(Miller's algorithm: only additions of positive numbers), with 70 digits, and become thresholds of 128 bits. A draw inverts them
with 64 random bits; where these meet a threshold's first half, 64 more decide, so that no floating point enters the law.

Source of the account: Agarwal, Kairouz, Liu 2021, arXiv:2110.04995, Theorem 3.5.
"""

from bisect import bisect_right
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from functools import lru_cache
from itertools import accumulate
from math import ceil, sqrt

import numpy as np

from edgehold.core.privacy.events import Sampler
from edgehold.core.privacy.sampling import Words, system_words
from edgehold.core.vectors import Array

LARGEST_TABLE = 2.0**18
"""Variance up to which one table serves; noise of more is a sum of several draws."""
LARGEST = 64 * LARGEST_TABLE
_DIGITS = Context(prec=70, Emax=MAX_EMAX, Emin=MIN_EMIN)


def farthest(variance: float, log_chance: float) -> int:
    """A distance from 0 that is passed with a chance of at most e^-log_chance (log_chance > 0).

    Bernstein: the Skellam's cumulants are those of jumps of size 1, so that P(|X| >= x) <= 2 exp(-x^2 / 2 (V + x/3)).
    """
    needed = log_chance + 0.7  # the factor of two
    return ceil(needed / 3 + sqrt(needed * needed / 9 + 2 * needed * variance))


class Skellam:
    """A source of noise of a variance above 0. words: another than the system's is of use in tests alone."""

    def __init__(self, variance: float, words: Words = system_words) -> None:
        if not 0 < variance <= LARGEST:
            raise ValueError(f"variance of {variance:g}; above 0 and at most {LARGEST:g} is possible: take a coarser grid")
        self.variance = variance
        self.parts = ceil(variance / LARGEST_TABLE)
        self._words = words
        self._thresholds, self._edges = _table(variance / self.parts)

    def draw(self, count: int) -> Array:
        """(count,) int64, independent of each other and of all drawn before."""
        out = self._draw(count)
        for _ in range(self.parts - 1):
            out += self._draw(count)
        return out

    def _draw(self, count: int) -> Array:
        words = self._words(count)
        cells = np.searchsorted(self._edges, words)
        # As many thresholds lie below as first halves do, but where a first half is met.
        met = np.flatnonzero(self._edges[np.minimum(cells, len(self._edges) - 1)] == words)
        for at, more in zip(met, self._words(len(met)), strict=True):
            cells[at] = bisect_right(self._thresholds, int(words[at]) << 64 | int(more))
        return cells.astype(np.int64) - len(self._edges) // 2

    def gap(self, count: int) -> Sampler:
        """How far the joint law of `count` draws is from Skellam's in total variation, words being as good as random.

        One part: each cell's chance is off by less than 2^-128 (two thresholds, rounded to half a unit of 2^-128 each, and
        digits far below); what lies outside the table has less than 2^-130.
        """
        return Sampler(distance=count * self.parts * (len(self._edges) + 2) * 2.0**-128)


@lru_cache(maxsize=8)
def _table(variance: float) -> tuple[list[int], Array]:
    """Thresholds between the values from -K to K in units of 2^-128 (2K of them), and their first halves, uint64."""
    most = farthest(variance, 92.0)  # e^-92 < 2^-132
    with localcontext(_DIGITS):
        chances = _chances(variance, 2 * most + 20)
        sizes = chances[1 : most + 1]
        one = Decimal(1 << 128)
        sums = accumulate([*reversed(sizes), chances[0], *sizes[:-1]], initial=(1 - chances[0] - 2 * sum(sizes)) / 2)
        thresholds = [int((total * one).to_integral_value()) for total in sums][1:]
    # The last ones may be 2^128, which no draw reaches.
    return thresholds, np.array([min(threshold >> 64, 2**64 - 1) for threshold in thresholds], dtype=np.uint64)


def _chances(variance: float, most: int) -> list[Decimal]:
    """Chances of 0 to `most`, relative errors far below 10^-60 up to half of it. Within a context of 70 digits."""
    beyond, here = Decimal(0), Decimal(1)
    step, values = 2 / Decimal(variance), [here]
    for k in range(most, 0, -1):
        beyond, here = here, beyond + k * step * here
        values.append(here)
    total = here + 2 * sum(values[:-1])
    return [value / total for value in reversed(values)]
