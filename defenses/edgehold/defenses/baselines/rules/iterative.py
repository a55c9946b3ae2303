"""Rules that walk towards a centre. The walk happens in coefficients over the points: no step touches an update."""

import numpy as np

from edgehold.core.vectors import Array
from edgehold.defenses.baselines.rules.choice import first_smallest
from edgehold.defenses.baselines.rules.cloud import Cloud

STILL = 1e-10
"""A walk ends when no coefficient moves by more than this."""


def geometric_median(cloud: Cloud, nu: float, iterations: int) -> Array:
    """Point of smallest sum of distances, by Weiszfeld steps with distances below nu counted as nu; weights (n,).

    Source: Pillutla et al. 2022, algorithm 2. Departure: starts at the point with the smallest sum of distances to the
    others, so that neither the origin nor an outlier has a say in where a walk cut short ends.
    """
    weights = np.zeros(cloud.n)
    weights[first_smallest(np.sqrt(cloud.distances).sum(axis=1))] = 1.0
    for _ in range(iterations):
        away = np.sqrt(cloud.lengths(cloud.shares - weights @ cloud.shares))
        pull = 1.0 / np.maximum(away, nu)
        moved = pull / pull.sum()
        still = float(np.abs(moved - weights).max()) <= STILL
        weights = moved
        if still:
            break
    return weights


def centred_clipping(cloud: Cloud, radius: float, iterations: int) -> Array:
    """From the previous result, steps by the mean of the differences, each cut to `radius`; coefficients over the basis.

    Source: Karimireddy et al. 2021, algorithm 2. The first round starts at 0.
    """
    at = cloud.start
    for _ in range(iterations):
        differences = cloud.shares - at
        away = np.sqrt(cloud.lengths(differences))
        factors = np.minimum(1.0, radius / np.maximum(away, radius))
        at = at + (factors[:, None] * differences).mean(axis=0)
    return at
