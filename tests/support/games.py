"""What tests of FLORAL have in common: two clouds of points and an attacker whose draws repeat."""

from typing import Any

import numpy as np

from edgehold.core.rng import stream
from edgehold.defenses.floral.projection import Array


def draw(number: int) -> np.random.Generator:
    return stream(5, "attacker", number)


def moons(n: int, seed: int = 0) -> tuple[Array, Any]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return rng.standard_normal((n, 2)) * 0.7 + np.where(y[:, None] == 1, 0.6, -0.6), y
