"""Choosing rows by number, so that rounding never decides: values within `TIE` of each other count as equal, and of equal
ones the first client ids are taken."""

import numpy as np

from edgehold.core.vectors import Array

TIE = 1e-9
"""Values this close, as a share, count as equal."""


def first_smallest(values: Array) -> int:
    """Index of the smallest value (values are not negative)."""
    return int(np.flatnonzero(values <= values.min() * (1.0 + TIE))[0])


def smallest(values: Array, count: int) -> Array:
    """Indices, ascending, of the `count` smallest values (values are not negative)."""
    if count >= len(values):
        return np.arange(len(values))
    edge = np.partition(values, count - 1)[count - 1]
    below = np.flatnonzero(values < edge * (1.0 - TIE))
    equal = np.flatnonzero((values >= edge * (1.0 - TIE)) & (values <= edge * (1.0 + TIE)))
    return np.sort(np.concatenate([below, equal[: count - len(below)]]))


def equal_weights(n: int, chosen: Array) -> Array:
    """(n,) weights: the chosen rows share 1 equally."""
    weights = np.zeros(n)
    weights[chosen] = 1.0 / len(chosen)
    return weights
