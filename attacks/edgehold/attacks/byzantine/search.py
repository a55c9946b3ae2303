"""Searches along one line: a grid and golden sections for the worst factor, bisection for the largest one that passes."""

from collections.abc import Callable, Sequence

import numpy as np

GOLDEN = (5**0.5 - 1) / 2
_SIZES = (0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)
GRID = (*(-size for size in reversed(_SIZES)), 0.0, *_SIZES)
"""Factors that are tried first. Source: the attack catalogue of this project, 1.5."""
STOP = 1e-5
"""Where bisections end, as a share of the factor. Source: Shejwalkar and Houmansadr 2021, algorithm 1 (there absolute)."""

GAIN = 1.0 + 1e-6
"""What doubling a factor must multiply the score with to go on: less is rounding, or a rule that has seen enough."""

Score = Callable[[float], float]
Tried = list[tuple[float, float]]
"""(factor, score) pairs."""


def golden(score: Score, grid: Sequence[float], steps: int, farther: int = 0) -> Tried:
    """Everything that was tried: the grid, ascending, then golden sections between the neighbours of its best point.

    farther: how often the best end of the grid may be doubled first while that scores higher, for scores that rise for ever.
    """
    tried = [(factor, score(factor)) for factor in grid]
    best = int(np.argmax([value for _, value in tried]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    if best in (0, len(grid) - 1) and grid[best]:
        edge, top = tried[best]
        for _ in range(farther):
            tried.append((2 * edge, score(2 * edge)))
            if tried[-1][1] <= top * GAIN:
                low, high = sorted((edge, 2 * edge))
                break
            low, high = sorted((edge, 2 * edge))
            edge, top = tried[-1]
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    if steps:
        tried += [(left, score(left)), (right, score(right))]
        at_left, at_right = tried[-2][1], tried[-1][1]
    for _ in range(steps - 1):
        if at_left >= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = score(left)
            tried.append((left, at_left))
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = score(right)
            tried.append((right, at_right))
    return tried


def best(tried: Tried, count: int) -> list[float]:
    """The `count` factors of highest score, the highest first; of equal ones the one tried first."""
    return [factor for factor, _ in sorted(tried, key=lambda pair: -pair[1])[:count]]


def largest(passes: Callable[[float], bool], start: float, most: float = 1e9) -> float:
    """The largest factor above 0 that passes, within `STOP` of it, when all smaller ones pass too; 0 when none does.

    start: where to begin, above 0; doubled while it passes, up to `most`, then bisected.
    """
    low, high = 0.0, start
    while high < most and passes(high):
        low, high = high, 2 * high
    floor = start * STOP
    while high - low > max(STOP * low, floor):
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low
