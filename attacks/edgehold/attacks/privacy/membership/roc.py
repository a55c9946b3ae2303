"""How well scores tell members from others: the area under the curve, and hits where false alarms are rare."""

from dataclasses import dataclass

import numpy as np

from edgehold.core.errors import ConfigError, NotFinite
from edgehold.core.vectors import Array

CONFIDENCE = 0.95
FALSE_ALARMS = 5
"""Fewest that a rate of false alarms must stand for: 5,000 non-members at 0.1 %. Below that there is no rate, only luck."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Hits among members at a bound on false alarms. hits of members; alarms of others that the threshold lets through.

    low, high: exact 95 % interval of `rate` at this threshold; alarm_low, alarm_high: of the rate of false alarms, which the
    threshold, chosen on these same records, meets only on average.
    """

    rate: float
    low: float
    high: float
    hits: int
    members: int
    alarms: int
    others: int
    alarm_low: float
    alarm_high: float


def auc(members: Array, others: Array) -> float:
    """Chance that a member scores above a non-member, ties counting half. Both (k,), at least one number each."""
    from scipy.stats import rankdata  # slow to load, and reports have no use for it

    _sound(members, others)
    ranks = rankdata(np.concatenate([members, others]))
    n, m = len(members), len(others)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def exact_interval(hits: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Of a binomial share. Source: Clopper and Pearson 1934."""
    from scipy.stats import beta

    if not 0 <= hits <= trials or trials < 1:
        raise ConfigError(f"{hits} hits in {trials} trials; expected 0 <= hits <= trials, and at least one trial")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(beta.ppf(1 - tail, hits + 1, trials - hits))
    return low, high


def enough(others: int, alarm: float) -> bool:
    """Whether so many non-members can carry a rate of false alarms."""
    return others * alarm >= FALSE_ALARMS - 1e-9


def rate_at(members: Array, others: Array, alarm: float) -> Rate | None:
    """Members above the lowest threshold that at most the share `alarm` of the others exceeds; None: not `enough` others."""
    if not enough(len(others), alarm):
        return None
    _sound(members, others)
    allowed = int(len(others) * alarm + 1e-9)
    threshold = np.sort(others)[len(others) - allowed - 1]
    hits, alarms = int(np.count_nonzero(members > threshold)), int(np.count_nonzero(others > threshold))
    low, high = exact_interval(hits, len(members))
    alarm_low, alarm_high = exact_interval(alarms, len(others))
    return Rate(hits / len(members), low, high, hits, len(members), alarms, len(others), alarm_low, alarm_high)


def _sound(members: Array, others: Array) -> None:
    for who, scores in (("members", members), ("others", others)):
        if scores.ndim != 1 or not len(scores):
            raise ConfigError(f"scores of {who} have shape {scores.shape}; expected one number for each, at least one")
        if not np.isfinite(scores).all():
            raise NotFinite(f"a score of {who} is not finite; nothing can be ranked by it")
