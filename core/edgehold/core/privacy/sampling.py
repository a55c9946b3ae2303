"""Who is in which batch: drawn on the device, from the operating system, so that nobody else can know.

Each record is placed on its own: whether another one exists changes nothing for it, as add-or-remove accounts require.
"""

import os
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from edgehold.core.vectors import Array

BLOCK = 32
"""Records whose gradients are added in float32, before float64 takes over; this also bounds the memory of a step."""
SURCHARGE = 2.0**-11
"""Relative: what rounding can add to the distance between the sums of neighbours. Adding BLOCK float32 vectors of norm C rounds
by at most BLOCK^2 2^-24 C; in two worlds, and in up to four blocks that a record can change: 8 BLOCK^2 2^-24 = 2^-11.
"""
GROUP = 24
"""Records that a group holds on average: mostly one block, and far from four, beyond which records are added one by one."""

Words: TypeAlias = Callable[[int], Array]
"""count -> (count,) uint64, uniform and independent. Another than the system's is of use in tests alone."""


def system_words(count: int) -> Array:
    """Words from the operating system."""
    return np.frombuffer(os.urandom(8 * count), dtype="<u8")


def in_bins(records: int, bins: int, groups: int, words: Words) -> list[list[Array]]:
    """Each record into one of `bins` batches, and within it into one of `groups` groups: their indices.

    Groups are added up apart (`edgehold.core.torch_persample`), so that a record changes the rounding of its own group alone.
    """
    return _dealt(np.arange(records), words(records) % np.uint64(bins * groups), bins, groups)


def poisson(records: int, rate: float, steps: int, groups: int, words: Words) -> list[list[Array]]:
    """Each record into each of `steps` batches with probability `rate` (within 2^-64, never more), and there into a group."""
    found = []
    limit = int(rate * 2.0**64)
    for _ in range(steps):
        drawn = words(records)
        chosen = np.flatnonzero(drawn < np.uint64(limit)) if limit < 1 << 64 else np.arange(records)
        found += _dealt(chosen, words(len(chosen)) % np.uint64(groups), 1, groups)
    return found


def _dealt(records: Array, places: Array, batches: int, groups: int) -> list[list[Array]]:
    order = np.argsort(places, kind="stable")
    ends = np.searchsorted(places[order], np.arange(1, batches * groups))
    parts = np.split(records[order], ends)
    return [parts[start : start + groups] for start in range(0, batches * groups, groups)]
