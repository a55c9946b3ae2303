"""Min-Max and Min-Sum: as far from the honest mean as a lie can go without lying farther out than an honest update does.

Min-Max: no farther from any honest update than the two farthest honest ones from each other. Min-Sum: the sum of squared
distances to the honest updates no larger than the largest such sum of an honest one. Knowledge K1 or K2, no rule.
Source: Shejwalkar and Houmansadr 2021, equations 3 and 4. Departure: exact; each constraint is a quadratic in the length, where
the authors bisect.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from edgehold.attacks.byzantine.directions import DIRECTIONS, Choice, Honest, check_choice, chosen, honest
from edgehold.attacks.byzantine.knowledge import K1
from edgehold.attacks.byzantine.sight import Lies, Sight, moments


def farthest(known: Honest) -> float:
    """Largest gamma with |mu + gamma p - g_i|^2 <= max |g_i - g_j|^2 for all i; 0 where p is 0.

    Per i: gamma^2 |p|^2 - 2 gamma p.(g_i - mu) + |g_i - mu|^2 - D <= 0. At gamma 0 it holds: the mean of points is no farther
    from one of them than the farthest other.
    """
    if known.square == 0.0:
        return 0.0
    room = np.maximum(known.distances.max() - known.away, 0.0)
    return float(((known.push + np.sqrt(known.push**2 + known.square * room)) / known.square).min())


def summed(known: Honest) -> float:
    """Largest gamma with sum_i |mu + gamma p - g_i|^2 <= max_i sum_j |g_i - g_j|^2; 0 where p is 0."""
    if known.square == 0.0:
        return 0.0
    room = max(float(known.distances.sum(axis=1).max() - known.away.sum()), 0.0)
    return sqrt(room / (len(known.gram) * known.square))  # deviations from the mean sum to 0, so there is no linear term


@dataclass(frozen=True)
class MinMax:
    """direction: "unit" (against the mean), "sign" (against its signs), "spread" (against the standard deviation), or "best":
    the one in which the lie gets farthest from the mean.
    """

    direction: Choice = "best"
    needs = K1
    fewest = 2
    remembers = False

    def __post_init__(self) -> None:
        check_choice(self.direction)

    def length(self, known: Honest) -> float:
        """How far along the direction."""
        return farthest(known)

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        middle, spread = moments(sight.known)
        lies = []
        for name in chosen(self.direction):
            push = DIRECTIONS[name](middle, spread)
            known = honest(sight.known, middle, push)
            gamma = self.length(known)
            lies.append((gamma * sqrt(known.square), gamma, push))
        _, gamma, push = max(lies, key=lambda one: one[0])
        return sight.everyone(middle + gamma * push)


@dataclass(frozen=True)
class MinSum(MinMax):
    """As `MinMax`, under the bound on the sum."""

    def length(self, known: Honest) -> float:
        """How far along the direction."""
        return summed(known)
