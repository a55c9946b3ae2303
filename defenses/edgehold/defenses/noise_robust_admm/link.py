"""The channel: what a number becomes on its way. Noise is part of what is simulated here, never a promise of privacy."""

import numpy as np

from edgehold.core.vectors import Vector
from edgehold.defenses.noise_robust_admm.state import WIRES, Doubles

_LARGEST = float(np.finfo(np.float16).max)


def sent(values: Doubles, noise: float, wire: str, rng: np.random.Generator) -> Vector:
    """Values with white noise of that deviation, as they travel. Drawn once: a resend repeats stored bytes."""
    if noise:
        values = values + noise * rng.standard_normal(len(values))
    if wire == "float16":
        return Vector.of(rounded_at_random(values, rng))
    return Vector.of(values.astype(WIRES[wire]))


def received(values: Vector, noise: float, rng: np.random.Generator) -> Doubles:
    """What arrives, (n,) float64: the values and the noise of the reception."""
    found = values.whole().astype(np.float64)
    return found + noise * rng.standard_normal(len(found)) if noise else found


def rounded_at_random(values: Doubles, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float16]]:
    """One of the two nearest float16 values, the nearer the likelier, so that the mean is right (variance about step^2 / 6).

    Beyond 65504, the largest of them, it is that one: an infinite number would be refused by everybody, and end the run.
    """
    values = np.clip(values, -_LARGEST, _LARGEST)
    with np.errstate(over="ignore"):
        near = values.astype(np.float16)
        toward = np.where(values > near, np.float16(np.inf), np.float16(-np.inf))
        far = np.nextafter(near, toward.astype(np.float16))
        gap = np.abs(far.astype(np.float64) - near.astype(np.float64))
        chance = np.where(np.isfinite(gap) & (gap > 0), np.abs(values - near.astype(np.float64)) / gap, 0.0)
    found = np.where(rng.random(len(values)) < chance, far, near)
    return np.asarray(found, dtype="<f2")
