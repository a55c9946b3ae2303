"""How much a count of right guesses says about epsilon: the statistics of the audit in one run.

Each of m canaries is included or not by a fair coin of its own. An auditor who sees the release guesses for some of them and
abstains for the rest. Under (epsilon, delta)-DP the number of right guesses is about as small as that of randomised response.

Source: Steinke, Nasr, Jagielski 2023, "Privacy auditing with one (1) training run", arXiv:2305.08846, Theorem 5.2 and
Appendix D. Departure: the bound is rounded down to the last epsilon that bisection found refuted.
"""

from math import exp

import numpy as np
from scipy.stats import binom

from edgehold.core.errors import ConfigError

_STEP = 1e-6
"""How near the bound comes to the exact one, in units of epsilon."""


def likelihood(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Largest chance that (epsilon, delta)-DP leaves for `correct` or more right ones among `guesses`, at most 1.

    With q = e^eps / (1 + e^eps) and B binomial of `guesses` trials of chance q:
    P[B >= v] + 2 m delta max over i = 1..v of P[v > B >= v - i] / i. Where delta is used up, it buys right guesses, and i of
    them cost i times as much as one.
    """
    q = 1 / (1 + exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, q))
    if delta == 0 or correct == 0:
        return tail
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, q))
    return min(tail + 2 * canaries * delta * float((below / np.arange(1, correct + 1)).max()), 1.0)


def epsilon_lower_bound(canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95) -> float:
    """Epsilon that a mechanism exceeds at `delta`, unless this audit was one of the share 1 - confidence that may mislead.

    The largest epsilon under which so many right guesses have a likelihood below 1 - confidence; 0 when there is none. Holds
    when canaries are included by independent fair coins, and when how many guesses to make was fixed before looking.
    `ConfigError` for counts that cannot be, or a delta or confidence outside its range.
    """
    if not 0 <= correct <= guesses <= canaries or canaries < 1:
        counts = f"{correct} right of {guesses} guesses about {canaries} canaries"
        raise ConfigError(f"{counts}; expected 0 <= right <= guesses <= canaries, and at least one canary")
    if not 0 <= delta < 1:
        raise ConfigError(f"delta = {delta}; it must be at least 0 and below 1")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence = {confidence}; it must be between 0 and 1")

    def refuted(epsilon: float) -> bool:
        return likelihood(canaries, guesses, correct, epsilon, delta) < 1 - confidence

    if not refuted(0.0):
        return 0.0
    # The likelihood grows with epsilon and ends at 1; from 0 upwards in small steps, so that its first crossing is found.
    low, high = 0.0, 0.5
    while refuted(high):
        low, high = high, high + 0.5
    while high - low > _STEP:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
