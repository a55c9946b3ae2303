"""Claimed weights, cut to what the plan allows: nobody outweighs the others by saying so."""

from collections.abc import Sequence
from math import isfinite
from statistics import median
from typing import Literal


def capped(claims: Sequence[float], by: Literal["samples", "equal"], cap: float) -> list[float]:
    """One positive weight per claim: all 1, or the claim cut to `cap` times the median claim.

    The median cannot be moved far by fewer than half of the claims, so neither can the largest weight.
    A claim that is not finite or not positive weighs like the smallest sound one.
    """
    if by == "equal":
        return [1.0] * len(claims)
    sound = [claim for claim in claims if isfinite(claim) and claim > 0]
    if not sound:
        return [1.0] * len(claims)
    ceiling, floor = cap * median(sound), min(sound)
    return [min(claim, ceiling) if isfinite(claim) and claim > 0 else min(floor, ceiling) for claim in claims]
