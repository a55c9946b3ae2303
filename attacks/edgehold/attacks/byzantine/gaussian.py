"""Noise instead of an update, nothing at all, and numbers that are none. Knowledge K0.

A server must survive all three: noise by its rule, the last by refusing it. Source: Blanchard et al. 2017, section 5.
"""

from dataclasses import dataclass

import numpy as np

from edgehold.attacks.byzantine.device import adversary
from edgehold.attacks.byzantine.knowledge import K0
from edgehold.attacks.byzantine.sight import Forgetful, Lies, Sight
from edgehold.core.contract import Adversary
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import FloatArray


@dataclass(frozen=True)
class Gaussian(Forgetful):
    """Independent normal values of standard deviation `sd`, new ones from each liar."""

    sd: float = 1.0
    needs = K0

    def __post_init__(self) -> None:
        if not (self.sd > 0 and np.isfinite(self.sd)):
            raise ConfigError(f"sd = {self.sd}; it must be finite and above 0")

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        return {client: sight.rng.standard_normal(sight.size, dtype=np.float32) * np.float32(self.sd) for client in sight.own}


@dataclass(frozen=True)
class Zero(Forgetful):
    """No change at all: a free rider that also holds everybody else back."""

    needs = K0

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        return sight.everyone(np.zeros(sight.size, np.float32))


@dataclass(frozen=True)
class NotFinite(Forgetful):
    """The honest update with `value` (nan, inf or -inf) at position `at`, or everywhere where `at` is below 0."""

    value: float = float("nan")
    at: int = 0
    needs = K0

    def __post_init__(self) -> None:
        if np.isfinite(self.value):
            raise ConfigError(f"value = {self.value} is finite; use nan, inf or -inf")

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        return {client: self._spoilt(change) for client, change in sight.own.items()}

    def _spoilt(self, change: FloatArray) -> FloatArray:
        out = change.copy()
        out[slice(None) if self.at < 0 else self.at % len(out)] = self.value
        return out


def make(sd: float = 1.0) -> Adversary:
    """`Gaussian` on a device."""
    return adversary(Gaussian(sd))


def not_finite(value: float = float("nan"), at: int = 0) -> Adversary:
    """`NotFinite` on a device."""
    return adversary(NotFinite(value, at))
