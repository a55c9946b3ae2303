"""Renyi divergence of the Poisson-subsampled Gaussian, and Renyi bounds into epsilon. Never below the exact values.

Sources: Mironov, Talwar, Zhang 2019, arXiv:1908.10530, section 3.3 (whole orders; add or remove one record); Canonne, Kamath,
Steinke 2020, arXiv:2004.00010, Proposition 12 (conversion). Between whole orders (order - 1) * divergence is convex, so the
straight line between its neighbours bounds it from above: no numerical integration is trusted.
"""

import math
from functools import lru_cache

ORDERS = (
    *(1 + step / 8 for step in range(1, 8)), *(2 + step / 4 for step in range(24)), *(float(order) for order in range(8, 65)),
    *(float(order) for order in range(72, 257, 8)), 320.0, 384.0, 448.0, 512.0, 640.0, 768.0, 1024.0,
)  # fmt: skip
"""Orders that accountants try."""


def gaussian(mu: float, order: float) -> float:
    """Divergence of mu-GDP Gaussian releases: order mu^2 / 2."""
    return order * mu * mu / 2


def subsampled(rate: float, mu: float, order: float) -> float:
    """One Gaussian release of sensitivity over sigma `mu`, on a batch into which each record comes with probability `rate`.

    order: above 1. Returns an upper bound of the divergence in both directions.
    """
    if rate == 0 or mu == 0:
        return 0.0
    if rate == 1:
        return gaussian(mu, order)
    below = math.floor(order)
    share = order - below
    log_moment = (1 - share) * _log_moment(rate, mu, below)
    if share:
        log_moment += share * _log_moment(rate, mu, below + 1)
    # Subsampling never makes a release worse.
    return min(log_moment / (order - 1), gaussian(mu, order))


@lru_cache(maxsize=65536)
def _log_moment(rate: float, mu: float, order: int) -> float:
    """log sum_k C(order, k) (1 - rate)^(order - k) rate^k exp((k^2 - k) mu^2 / 2); 0 for order 1."""
    if order <= 1:
        return 0.0
    terms = [
        math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        + (order - k) * math.log1p(-rate) + k * math.log(rate) + (k * k - k) * mu * mu / 2
        for k in range(order + 1)
    ]  # fmt: skip
    top = max(terms)
    return max(0.0, top + math.log(math.fsum(math.exp(term - top) for term in terms)))


def epsilon_of(divergence: float, order: float, delta: float) -> float:
    """Epsilon at `delta` of whatever has that divergence at that order."""
    return max(0.0, divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1))


def divergence_of(epsilon: float, order: float, delta: float) -> float:
    """Largest divergence at that order that stays within (epsilon, delta); negative when none does."""
    return epsilon - math.log1p(-1 / order) + (math.log(delta) + math.log(order)) / (order - 1)
