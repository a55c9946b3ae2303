"""Two moons: half circles in the plane with noise, made from the seed; nothing is downloaded.

Source: the shape of scikit-learn's `make_moons`; size and split as in Bal, Cevher and Muehlebach 2025.
"""

from pathlib import Path

import numpy as np

from edgehold.client.data.dataset import Dataset, Split
from edgehold.client.data.names import one_of
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream

TRAIN, VALIDATION, TEST = 500, 500, 1000


def moon(path: str | Path = "", *, seed: int = 0, verify: bool = True, noise: float = 0.2, part: str = "test") -> Split:
    """500 training records and 1,000 test records of two numbers, or with part = "validation" the 500 between: raw (n, 2)
    float32.

    Class 0: (cos a, sin a); class 1: (1 - cos a, 0.5 - sin a), a in 0..pi at equal steps; noise: deviation added to each
    number.
    """
    one_of("part", part, ("test", "validation"))
    if not 0 <= noise < np.inf:
        raise ConfigError(f"noise = {noise}; expected a number from 0 on", field="noise")
    rng, half = stream(seed, "moon"), (TRAIN + VALIDATION + TEST) // 2
    angle = np.linspace(0, np.pi, half)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.concatenate([upper, np.array([1.0, 0.5]) - upper])
    points += noise * rng.standard_normal(points.shape)
    labels = np.repeat(np.arange(2), half)
    order = rng.permutation(2 * half)
    whole = Dataset(
        "moon", points.astype(np.float32), labels, ("x", "y"), ("upper", "lower"), "made from the seed", f"seed {seed}, {noise}"
    )
    held = order[TRAIN : TRAIN + VALIDATION] if part == "validation" else order[TRAIN + VALIDATION :]
    return Split(whole.take(order[:TRAIN]), whole.take(held))
