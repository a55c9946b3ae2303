"""Integrators to compare with: rules that look at heads and not at data. Own head and peers' heads count alike."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean(heads: Floats, liars: int) -> Floats:
    """Plain average."""
    return np.asarray(heads.mean(axis=0))


def median(heads: Floats, liars: int) -> Floats:
    """Median of every number (BRIDGE-M, Fang, Yang and Bajwa 2022)."""
    return np.asarray(np.median(heads, axis=0))


def trimmed(heads: Floats, liars: int) -> Floats:
    """Mean of every number without the `liars` smallest and largest (BRIDGE-T); the middle ones where too few are left."""
    cut = min(liars, (len(heads) - 1) // 2)
    return np.asarray(np.sort(heads, axis=0)[cut : len(heads) - cut].mean(axis=0))


def krum(heads: Floats, liars: int) -> Floats:
    """The head whose n - liars - 2 nearest are nearest (Blanchard et al. 2017); at least one neighbour counts."""
    flat = heads.reshape(len(heads), -1)
    squares = ((flat[:, None] - flat[None]) ** 2).sum(axis=2)
    near = max(1, len(heads) - liars - 2)
    return np.asarray(heads[int(np.argmin(np.sort(squares, axis=1)[:, 1 : 1 + near].sum(axis=1)))])


CONTROLS: Mapping[str, Callable[[Floats, int], Floats]] = {"mean": mean, "median": median, "trimmed": trimmed, "krum": krum}
"""Name in a plan -> (heads (n, d, C), liars) -> head."""
