"""Noise instead of an update, and numbers that are none. Knowledge K0.

A server must survive both: the first by its rule, the second by refusing it. Source: Blanchard et al. 2017, section 5.
"""

from typing import Any

import numpy as np

from edgehold.attacks.byzantine.wrap import Liar
from edgehold.core.contract import Adversary, ClientSide
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import FloatArray


def make(sd: float = 1.0) -> Adversary:
    """Sends independent normal values of standard deviation `sd`."""
    if not sd > 0:
        raise ConfigError(f"sd = {sd}; it must be above 0")

    def lie(order: Any, delta: FloatArray, rng: np.random.Generator) -> FloatArray:
        return rng.standard_normal(len(delta), dtype=np.float32) * np.float32(sd)

    def adversary(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        return Liar(honest, lie)

    return adversary


def not_finite(value: float = float("nan"), at: int = 0) -> Adversary:
    """Sends the honest update with `value` (nan, inf or -inf) at position `at`; it must be rejected, not averaged."""
    if np.isfinite(value):
        raise ConfigError(f"value = {value} is finite; use nan, inf or -inf")

    def lie(order: Any, delta: FloatArray, rng: np.random.Generator) -> FloatArray:
        out = delta.copy()
        out[at % len(out)] = value
        return out

    def adversary(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        return Liar(honest, lie)

    return adversary
