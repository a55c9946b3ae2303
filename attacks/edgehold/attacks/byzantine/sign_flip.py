"""Sign flip: send the opposite of the honest update, or of the mean of all that are known.

Source: Damaskinos et al. 2018; Li et al. 2019 (RSA); of the mean: Allen-Zhu et al. 2020.
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.sign_flip:make".
"""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np

from edgehold.attacks.byzantine.device import adversary
from edgehold.attacks.byzantine.knowledge import K0, K1, Knowledge
from edgehold.attacks.byzantine.sight import Forgetful, Lies, Sight, mean
from edgehold.core.contract import Adversary
from edgehold.core.errors import ConfigError


@dataclass(frozen=True)
class SignFlip(Forgetful):
    """-scale times the own honest update (K0), or times the mean of the known ones (K1, K2)."""

    scale: float = 1.0
    of: Literal["own", "mean"] = "own"

    def __post_init__(self) -> None:
        if not (self.scale > 0 and isfinite(self.scale)):
            raise ConfigError(f"scale = {self.scale}; it must be finite and above 0, or this is no sign flip")
        if self.of not in ("own", "mean"):
            raise ConfigError(f'of = {self.of!r}; allowed: "own", "mean"')

    @property
    def needs(self) -> Knowledge:
        """See `Attack`."""
        return K0 if self.of == "own" else K1

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        if self.of == "mean":
            return sight.everyone(-self.scale * mean(sight.known))
        return {client: np.multiply(change, np.float32(-self.scale)) for client, change in sight.own.items()}


def make(scale: float = 1.0) -> Adversary:
    """`SignFlip` of the own update on a device."""
    return adversary(SignFlip(scale))
