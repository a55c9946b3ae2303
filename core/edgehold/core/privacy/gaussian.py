"""Gaussian differential privacy: mu, epsilon and delta into each other, exactly, and rounded to the safe side.

A release is mu-GDP when telling two neighbours apart from it is no easier than telling N(0, 1) from N(mu, 1). k releases, each
chosen after seeing those before it, are sqrt(mu_1^2 + ... + mu_k^2)-GDP.

Source: Dong, Roth, Su 2022, arXiv:1905.02383, Corollary 2.13; the curve is that of Balle and Wang 2018, arXiv:1805.06530.
"""

import math

_SLACK = 1e-9
"""Relative: what a bisection ends with is moved to the safe side by so much."""


def delta_of(mu: float, epsilon: float) -> float:
    """Smallest delta with which mu-GDP is (epsilon, delta)-DP: Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2)."""
    if mu == 0:
        return 0.0
    if math.isinf(mu):
        return 1.0
    first = _log_phi(-epsilon / mu + mu / 2)
    second = epsilon + _log_phi(-epsilon / mu - mu / 2)
    # The difference of two numbers that may be nearly equal, or too small for a float: taken as a ratio.
    return math.exp(first) * -math.expm1(min(second - first, 0.0))


def epsilon_of(mu: float, delta: float) -> float:
    """Epsilon of mu-GDP at `delta` in (0, 1), never below the exact value; infinite for infinite mu."""
    if mu == 0 or delta_of(mu, 0.0) <= delta:
        return 0.0
    if math.isinf(mu):
        return math.inf
    low, high = 0.0, 1.0
    while delta_of(mu, high) > delta:
        low, high = high, 2 * high
        if math.isinf(high):
            return math.inf
    while high - low > _SLACK * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(mu, middle) > delta else (low, middle)
    return high * (1 + _SLACK)


def mu_of(epsilon: float, delta: float) -> float:
    """Largest mu for which mu-GDP is (epsilon, delta)-DP, never above the exact value. epsilon >= 0, delta in (0, 1)."""
    low, high = 0.0, 1.0
    while delta_of(high, epsilon) <= delta:
        low, high = high, 2 * high
    while high - low > _SLACK * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, epsilon) <= delta else (low, middle)
    return low * (1 - _SLACK)


def _log_phi(x: float) -> float:
    """Logarithm of the standard normal distribution function."""
    if x > -30:
        return math.log(0.5 * math.erfc(-x / math.sqrt(2)))
    # Asymptotic series; its next term is below 1e-9 of the last one here.
    series = 1 - 1 / x**2 + 3 / x**4 - 15 / x**6
    return -x * x / 2 - math.log(-x) - 0.5 * math.log(2 * math.pi) + math.log(series)
