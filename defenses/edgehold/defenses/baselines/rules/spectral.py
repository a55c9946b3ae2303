"""Rules that look for a direction in which the updates spread too far. Spectra come from the n x n Gram matrix."""

from itertools import combinations, islice
from math import comb

import numpy as np

from edgehold.core.vectors import Array
from edgehold.defenses.baselines.rules.choice import TIE, equal_weights
from edgehold.defenses.baselines.rules.cloud import Cloud

SUBSETS = 100_000
"""Most subsets that `smea` looks at."""


def caf(cloud: Cloud, f: int) -> Array:
    """Mean of smallest spread among those met while points are weighted down by how far they lie in the widest direction.

    Source: Allouah et al. 2025, covariance-bound agnostic filter. Departure: exact eigenvectors, and
    the farthest point is sought among those that have weight left.
    """
    trust, best, least = np.ones(cloud.n), np.full(cloud.n, 1.0 / cloud.n), np.inf
    while trust.sum() > 0.5 and (trust.sum() > cloud.n - 2 * f or least == np.inf):
        mean = trust / trust.sum()
        spread, along = _widest(_about(cloud.gram, mean), mean)
        if spread < least * (1.0 - TIE):
            least, best = spread, mean
        # Among those still trusted: one thrown out long ago must not make the rest look near.
        farthest = along[trust > 0.0].max()
        if f == 0 or farthest <= 0.0:
            break
        share = np.minimum(along / farthest, 1.0)
        # The farthest leave for good; rounding must not keep a trace of something huge.
        trust = np.where(share >= 1.0 - TIE, 0.0, trust * (1.0 - share))
    return best


def dnc(cloud: Cloud, f: int, filtering: float) -> Array:
    """Mean of what is left when the point farthest along the widest direction was taken away f * filtering times.

    Source: Shejwalkar and Houmansadr 2021, algorithm 2. Departure: all coordinates instead of a random sample, and the
    direction is found anew after each removal, so that liars in several directions do not hide each other.
    """
    left = np.arange(cloud.n)
    for _ in range(min(round(f * filtering), cloud.n - 1)):
        mean = np.full(len(left), 1.0 / len(left))
        _, along = _widest(_about(cloud.gram[np.ix_(left, left)], mean), mean)
        # Of equally far ones the last client id goes.
        left = np.delete(left, int(np.flatnonzero(along >= along.max() * (1.0 - TIE))[-1]))
    return equal_weights(cloud.n, left)


def smea(cloud: Cloud, f: int) -> Array:
    """Mean of the n - f points whose covariance has the smallest largest eigenvalue; all subsets are compared.

    Source: Allouah et al. 2023, section 3. Of equal subsets the one with the first client ids wins.
    """
    keep = cloud.n - f
    subsets = combinations(range(cloud.n), keep)
    best, least = np.arange(keep), np.inf
    chunk = max(1, (1 << 20) // (keep * keep))
    for _ in range(0, comb(cloud.n, keep), chunk):
        index = np.array(list(islice(subsets, chunk)))
        grams = cloud.gram[index[:, :, None], index[:, None, :]]
        grams = grams - grams.mean(axis=1, keepdims=True)
        grams = grams - grams.mean(axis=2, keepdims=True)
        spreads = np.maximum(np.linalg.eigvalsh(grams)[:, -1], 0.0)
        first = int(np.flatnonzero(spreads <= spreads.min() * (1.0 + TIE))[0])
        if spreads[first] < least * (1.0 - TIE):
            best, least = index[first], spreads[first]
    return equal_weights(cloud.n, best)


def _about(gram: Array, mean: Array) -> Array:
    """Inner products about the weighted mean of the points."""
    shift = gram @ mean
    return np.asarray(gram - shift[:, None] - shift[None, :] + mean @ shift)


def _widest(gram: Array, mean: Array) -> tuple[float, Array]:
    """Largest eigenvalue of the weighted covariance, and each point's squared coordinate along its eigenvector."""
    root = np.sqrt(mean)
    values, vectors = np.linalg.eigh(root[:, None] * gram * root[None, :])
    if values[-1] <= 0.0:
        return 0.0, np.zeros(len(gram))
    return float(values[-1]), (gram @ (root * vectors[:, -1])) ** 2 / values[-1]
