"""The prioritiser: which heads a device reads. Looks at distances alone, never at data."""

import numpy as np

from edgehold.core.vectors import Array


def shares(budget: int, explore: float) -> list[int]:
    """How many heads of the near, the middle and the far third, `budget` in all: (1-a)^2, 2a(1-a) and a^2 of it.

    Largest remainders, so that they add up; rounding each to the nearest, as the authors' code does, reads 11 of 10.
    """
    exact = [budget * (1 - explore) ** 2, budget * 2 * explore * (1 - explore), budget * explore**2]
    # Rounding must neither cost a whole share one nor decide between equals: the nearer group comes first.
    whole = [int(np.floor(one + 1e-9)) for one in exact]
    by_rest = sorted(range(3), key=lambda group: (round(whole[group] - exact[group], 9), group))
    for group in by_rest[: budget - sum(whole)]:
        whole[group] += 1
    return whole


def choose(distances: Array, budget: int, explore: float, rng: np.random.Generator) -> list[int]:
    """Places of min(budget, N) distinct heads, ascending. distances: (N,) from the own head.

    Sorted by distance and cut in three groups as equal as they come; drawn from each without replacement. What a group is short
    of is taken from the nearest that are left.
    """
    count = len(distances)
    if count <= budget:
        return list(range(count))
    groups = np.array_split(np.argsort(distances, kind="stable"), 3)
    chosen: list[int] = []
    for group, wanted in zip(groups, shares(budget, explore), strict=True):
        chosen += rng.permutation(group)[:wanted].tolist()
    taken = set(chosen)
    left = [int(place) for group in groups for place in group if int(place) not in taken]
    return sorted(chosen + left[: budget - len(chosen)])
