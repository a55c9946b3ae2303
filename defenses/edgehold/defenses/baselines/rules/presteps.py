"""What may happen to the updates before a rule combines them. Each turns points into points and touches no update."""

import numpy as np

from edgehold.core.vectors import Array
from edgehold.defenses.baselines.rules.choice import smallest
from edgehold.defenses.baselines.rules.cloud import Cloud


def nnm(cloud: Cloud, f: int) -> Cloud:
    """Each point becomes the mean of the n - f points nearest it, itself among them. Source: Allouah et al. 2023, NNM."""
    mix = np.zeros((cloud.n, cloud.n))
    for index, distances in enumerate(cloud.distances):
        mix[index, smallest(distances, cloud.n - f)] = 1.0 / (cloud.n - f)
    return cloud.mixed(mix, cloud.clients)


def bucketing(cloud: Cloud, size: int, rng: np.random.Generator) -> Cloud:
    """Points in random order, `size` at a time, become their mean. Source: Karimireddy et al. 2022, algorithm 1.

    The last bucket may be smaller. Up to f buckets hold a liar.
    """
    order = rng.permutation(cloud.n)
    mix = np.zeros((buckets(cloud.n, size), cloud.n))
    for index, row in enumerate(mix):
        members = order[index * size : (index + 1) * size]
        row[members] = 1.0 / len(members)
    return cloud.mixed(mix)


def buckets(n: int, size: int) -> int:
    """How many points are left of n."""
    return -(-n // size)


def clipping(cloud: Cloud, norm: float) -> Cloud:
    """Points longer than `norm` are scaled down to it."""
    return _cut(cloud, norm)


def norm_bound(cloud: Cloud, factor: float) -> Cloud:
    """Points longer than `factor` times the median length are scaled down to that. Source: Sun et al. 2019, section 4,
    with a bound that follows the training instead of a fixed one."""
    return _cut(cloud, factor * float(np.median(cloud.norms)))


def arc(cloud: Cloud, f: int) -> Cloud:
    """The k = floor(2 f (n - f) / n) longest points are scaled down to the length of the next one. Allouah et al. 2024."""
    cut = 2 * f * (cloud.n - f) // cloud.n
    return _cut(cloud, float(np.sort(cloud.norms)[cloud.n - cut - 1])) if cut else cloud


def _cut(cloud: Cloud, most: float) -> Cloud:
    norms: Array = cloud.norms
    if not (norms > most).any():
        return cloud
    return cloud.scaled(np.divide(most, norms, out=np.ones_like(norms), where=norms > most))
