"""Minimum-diameter averaging, exactly and at any size.

A set of n - f points has diameter at most t when the f others touch every pair that is farther apart than t: they are a
vertex cover of the graph of those pairs. So the smallest t is found by bisection over the sorted distances, and each
question by a search that never removes more than f points.
"""

import numpy as np

from edgehold.core.vectors import Array
from edgehold.defenses.baselines.rules.choice import TIE, equal_weights
from edgehold.defenses.baselines.rules.cloud import Cloud


def mda(cloud: Cloud, f: int) -> Array:
    """Mean of the n - f points of smallest diameter; of several such sets, the one with the first client ids.

    Source: El Mhamdi et al. 2021, minimum-diameter averaging (Rousseeuw 1985).
    """
    return equal_weights(cloud.n, np.array(tightest(cloud.distances, f)))


def tightest(distances: Array, f: int) -> list[int]:
    """The n - f indices, ascending, of smallest largest distance; the first in lexicographic order of equal ones."""
    n = len(distances)
    if f == 0:
        return list(range(n))
    sizes = np.unique(np.append(distances[np.triu_indices(n, 1)], 0.0))
    low, high = 0, len(sizes) - 1
    while low < high:
        middle = (low + high) // 2
        if coverable(_far(distances, sizes[middle]), f):
            high = middle
        else:
            low = middle + 1
    return _first_free(_far(distances, sizes[high] * (1.0 + TIE)), f)


def coverable(edges: list[int], f: int) -> bool:
    """Whether at most f points touch every edge. edges[i]: bit set of the neighbours of i, symmetric, no loops."""
    live = sum(1 << i for i, near in enumerate(edges) if near)
    return _cover(edges, live, f)


def _cover(edges: list[int], live: int, budget: int) -> bool:
    """Whether `budget` points of `live` touch every edge within `live`."""
    while True:
        degrees = [((edges[i] & live).bit_count(), i) for i in _members(live)]
        top, at = max(degrees, default=(0, 0))
        if top == 0:
            return True
        if sum(degree for degree, _ in degrees) > 2 * budget * top:
            return False
        if top > budget:  # else all its neighbours would have to go, more than allowed
            live, budget = live & ~(1 << at), budget - 1
            continue
        leaf = next((i for degree, i in degrees if degree == 1), None)
        if leaf is not None:  # taking its one neighbour is never worse
            live, budget = live & ~(edges[leaf] | 1 << leaf), budget - 1
            continue
        live &= ~sum(1 << i for degree, i in degrees if degree == 0)
        break
    if top == 2:  # only circles are left: half of each, rounded up
        return _circles(edges, live) <= budget
    if _matching(edges, live) > budget:
        return False
    near = edges[at] & live
    return _cover(edges, live & ~(1 << at), budget - 1) or _cover(edges, live & ~(near | 1 << at), budget - top)


def _matching(edges: list[int], live: int) -> int:
    """Size of some maximal matching: each of its edges needs a point of its own."""
    size = 0
    while live:
        point = live & -live
        live ^= point
        near = edges[point.bit_length() - 1] & live
        if near:
            live ^= near & -near
            size += 1
    return size


def _circles(edges: list[int], live: int) -> int:
    """Points needed to cover a graph whose every point has two neighbours."""
    needed = 0
    while live:
        reached = front = live & -live
        while front:
            step = 0
            for point in _members(front):
                step |= edges[point] & live
            front = step & ~reached
            reached |= front
        needed += (reached.bit_count() + 1) // 2
        live &= ~reached
    return needed


def _first_free(edges: list[int], f: int) -> list[int]:
    """The lexicographically first n - f points without an edge among them; there must be such a set."""
    n = len(edges)
    live, budget = (1 << n) - 1, f
    kept: list[int] = []
    for i in range(n):
        if len(kept) == n - f or not live >> i & 1:
            continue
        out = edges[i] & live
        if out.bit_count() <= budget and _cover(edges, live & ~(out | 1 << i), budget - out.bit_count()):
            kept.append(i)
            live, budget = live & ~(out | 1 << i), budget - out.bit_count()
        else:
            live, budget = live & ~(1 << i), budget - 1
    return kept


def _members(bits: int) -> list[int]:
    found = []
    while bits:
        low = bits & -bits
        found.append(low.bit_length() - 1)
        bits ^= low
    return found


def _far(distances: Array, most: float) -> list[int]:
    """Bit set, per point, of the points farther than `most`."""
    far = distances > most
    return [sum(1 << int(j) for j in np.flatnonzero(row)) for row in far]
