"""Noise that devices bring along: each adds a share to its vector before masking, so that nobody ever sees a sum without noise.

Shares are Skellam, whose sums are Skellam exactly: V / (t + 1 - helpers) each for groups of threshold t, so that a sum over the
fewest survivors a device answers for carries variance V at least, even where `helpers` of them kept their shares to themselves
and told the server. More survivors only add noise. Reducing modulo the width is post-processing and costs nothing.

A device draws anew for each attempt, is charged for each, and stores the masked vector before it leaves.
"""

from dataclasses import dataclass
from math import log, sqrt

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.masks.terms import Terms, threshold
from edgehold.core.privacy import events
from edgehold.core.privacy.sampling import Words, system_words
from edgehold.core.privacy.skellam import Skellam, farthest
from edgehold.core.vectors import Array

_LOG_WRAP = 40 * log(2)
"""A sum passes its margin somewhere with a chance of at most 2^-40."""


@dataclass(frozen=True, slots=True)
class SharedNoise:
    """variance: that any sum has at least, in squared steps of the integers. helpers: members that are not counted on."""

    variance: float
    helpers: int = 0

    @classmethod
    def of(cls, terms: Terms) -> "SharedNoise | None":
        """What a sum's terms say; None for a sum without noise."""
        return cls(terms.variance, terms.helpers) if terms.variance else None

    def share(self, members: int) -> float:
        """Variance of one device's noise in a group of so many; `ConfigError` where helpers leave nobody to count on."""
        counted = threshold(members) + 1 - self.helpers
        if counted < 1:
            raise ConfigError(
                f"{self.helpers} helpers in a group of {members}, whose fewest survivors are {threshold(members) + 1}: at most "
                f"{threshold(members)} leave somebody whose noise counts"
            )
        return self.variance / counted

    def margin(self, least: int, most: int, entries: int) -> int:
        """What noise may add to a sum of groups of such sizes, in either direction."""
        variance = max(members * self.share(members) for members in range(least, most + 1))
        return farthest(variance, _LOG_WRAP + log(entries))

    def drawn(self, members: int, words: Words = system_words) -> Skellam:
        """This device's source. words: another than the system's is of use in tests alone."""
        return Skellam(self.share(members), words)

    def event(self, entries: int, members: int, sensitivity: float, absolute: float) -> events.Skellam:
        """What one vector costs its device, for the ledger, before noise is drawn: a device is in one group's sum only.

        sensitivity, absolute: the largest Euclidean norm and sum of absolute values that a vector has (see `sensitivities`);
        an absent device's vector counts as zeros, and that it is absent is known to all.
        """
        one = self.drawn(members).gap(entries)
        sampler = events.Sampler(distance=members * one.distance)
        return events.Skellam(unit="user", sensitivity=sensitivity, absolute=absolute, variance=self.variance, sampler=sampler)


def sensitivities(entries: int, norm: float) -> tuple[float, float]:
    """Euclidean norm and largest sum of absolute values of whole numbers: |k| <= k^2, and Cauchy-Schwarz."""
    return norm, min(norm * norm, sqrt(entries) * norm)


def noised(block: Array, source: Skellam) -> Array:
    """A block of integers with the next draws added, int64."""
    found: Array = block.astype(np.int64) + source.draw(len(block))
    return found
