"""Renyi divergence of the Poisson-subsampled Gaussian, and Renyi bounds into epsilon. Never below the exact values.

Sources: Mironov, Talwar, Zhang 2019, arXiv:1908.10530, section 3.3 (whole orders; add or remove one record); Canonne, Kamath,
Steinke 2020, arXiv:2004.00010, Proposition 12 (conversion). Between whole orders (order - 1) * divergence is convex, so the
straight line between its neighbours bounds it from above: no numerical integration is trusted.
"""

import math
from functools import lru_cache

import numpy as np

from edgehold.core.vectors import Array

ORDERS = (
    *(1 + step / 8 for step in range(1, 8)), *(2 + step / 4 for step in range(24)), *(float(order) for order in range(8, 65)),
    *(float(order) for order in range(72, 257, 8)), 320.0, 384.0, 448.0, 512.0, 640.0, 768.0, 1024.0,
)  # fmt: skip
"""Orders that accountants try."""
_LOG_FACTORIALS = np.array([math.lgamma(k + 1) for k in range(int(max(ORDERS)) + 2)])


def gaussian(mu: float, order: float) -> float:
    """Divergence of mu-GDP Gaussian releases: order mu^2 / 2."""
    return order * mu * mu / 2


def skellam(sensitivity: float, absolute: float, variance: float, order: float) -> float:
    """Bound for Skellam noise of that variance on integer vectors; sensitivities: Euclidean, in sums of absolute values.

    Source: Agarwal, Kairouz, Liu 2021, arXiv:2110.04995, Theorem 3.5: a D2^2 / 2V + min(((2a - 1) D2^2 + 6 D1) / 4V^2,
    3 D1 / 2V) for whole orders a > 1. Between them the next whole one bounds it: divergences grow with their order.
    """
    whole = max(2, math.ceil(order))
    square = sensitivity * sensitivity
    further = min(((2 * whole - 1) * square + 6 * absolute) / (4 * variance * variance), 3 * absolute / (2 * variance))
    return whole * square / (2 * variance) + further


def subsampled(rate: float, mu: float, order: float) -> float:
    """One Gaussian release of sensitivity over sigma `mu`, on a batch into which each record comes with probability `rate`.

    order: above 1. Returns an upper bound of the divergence in both directions.
    """
    return subsampled_each(rate, (mu,), order)[0]


@lru_cache(maxsize=65536)
def subsampled_each(rate: float, mus: tuple[float, ...], order: float) -> tuple[float, ...]:
    """As `subsampled`, for several mu at once."""
    plain = tuple(gaussian(mu, order) for mu in mus)
    if rate in (0, 1):
        return plain if rate else (0.0,) * len(mus)
    below = math.floor(order)
    share = order - below
    log_moments = (1 - share) * _log_moments(rate, mus, below)
    if share:
        log_moments = log_moments + share * _log_moments(rate, mus, below + 1)
    # Subsampling never makes a release worse.
    return tuple(min(float(one) / (order - 1), limit) for one, limit in zip(log_moments, plain, strict=True))


def _log_moments(rate: float, mus: tuple[float, ...], order: int) -> Array:
    """For each mu log sum_k C(order, k) (1 - rate)^(order - k) rate^k exp((k^2 - k) mu^2 / 2); 0 for order 1."""
    if order <= 1:
        return np.zeros(len(mus))
    k = np.arange(order + 1)
    chosen = _LOG_FACTORIALS[order] - _LOG_FACTORIALS[k] - _LOG_FACTORIALS[order - k]
    weight = chosen + (order - k) * math.log1p(-rate) + k * math.log(rate)
    terms = weight + (k * k - k) * np.square(np.asarray(mus))[:, None] / 2
    top = terms.max(axis=1)
    found: Array = np.maximum(0.0, top + np.log(np.exp(terms - top[:, None]).sum(axis=1)))
    return found


def epsilon_of(divergence: float, order: float, delta: float) -> float:
    """Epsilon at `delta` of whatever has that divergence at that order."""
    return max(0.0, divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1))


def divergence_of(epsilon: float, order: float, delta: float) -> float:
    """Largest divergence at that order that stays within (epsilon, delta); negative when none does."""
    return epsilon - math.log1p(-1 / order) + (math.log(delta) + math.log(order)) / (order - 1)
