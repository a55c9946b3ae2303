"""Sign flip: send minus the honest update. Knowledge K0 (own data only).

Source: Damaskinos et al. 2018; Li et al. 2019 (RSA).
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.sign_flip:make".
"""

from typing import Any

import numpy as np

from edgehold.attacks.byzantine.wrap import Liar
from edgehold.core.contract import Adversary, ClientSide
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import FloatArray


def make(scale: float = 1.0) -> Adversary:
    """Sends -scale times the honest update; scale must be above 0."""
    if not scale > 0:
        raise ConfigError(f"scale = {scale}; it must be above 0, or this is no sign flip")

    def lie(order: Any, delta: FloatArray, rng: np.random.Generator) -> FloatArray:
        return np.multiply(delta, np.float32(-scale))

    def adversary(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        return Liar(honest, lie)

    return adversary
