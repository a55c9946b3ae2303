"""Sketches: a head as 64 numbers whose distances are those of the heads, within about sqrt(2 / 64).

A random projection on signs that everybody draws from the run's seed (Johnson and Lindenstrauss 1984; signs: Achlioptas 2003).
"""

from functools import lru_cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from edgehold.core.rng import stream
from edgehold.core.vectors import Array, FloatArray
from edgehold.defenses.bristle.state import SKETCH

_ROWS = 8


def sketch(head: Array, seed: int) -> FloatArray:
    """(SKETCH,) float32. head: (d * C,) or (d, C).

    Added in one fixed order, not by BLAS: the numbers stand in orders, which must be the same everywhere.
    """
    flat = np.asarray(head, dtype=np.float64).reshape(-1)
    found = np.empty(SKETCH)
    for start in range(0, SKETCH, _ROWS):
        part = _signs(seed, len(flat))[start : start + _ROWS]
        found[start : start + _ROWS] = np.add.reduce(part * flat, axis=1)
    return (found / sqrt(SKETCH)).astype(np.float32)


@lru_cache(maxsize=2)
def _signs(seed: int, size: int) -> NDArray[np.int8]:
    drawn = np.frombuffer(stream(seed, "bristle", "sketch").bytes(SKETCH * -(-size // 8)), dtype=np.uint8)
    bits = np.unpackbits(drawn.reshape(SKETCH, -1), axis=1, count=size)
    signs = (2 * bits.astype(np.int8) - 1).astype(np.int8)
    signs.flags.writeable = False
    return signs
