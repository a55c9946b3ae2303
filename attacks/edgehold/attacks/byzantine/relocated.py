"""Against centred clipping: lies placed around its own centre, just far enough that each counts with the whole radius.

The rule starts from its last result and cuts what is farther from it than the radius. A lie around the honest mean wastes
length on the way there; one at centre + radius * u is not cut at all and moves the result by its full share along u.
Knowledge K1+A, best K2+A. Source: Ozfatura et al. 2023, arXiv:2208.09894 (relocated, orthogonal to the momentum).
"""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np

from edgehold.attacks.byzantine.knowledge import K1_RULE
from edgehold.attacks.byzantine.sight import Lies, Sight, last_step, mean
from edgehold.core.errors import ConfigError, NotGranted
from edgehold.core.vectors import Array


@dataclass(frozen=True)
class Relocated:
    """u: "opposing" points from the honest mean to the centre and on; "orthogonal" is that without its part along the centre,
    so that the lie agrees with the direction the model has been moving in. tau: distance from the centre; None: the rule's
    radius.
    """

    u: Literal["opposing", "orthogonal"] = "opposing"
    tau: float | None = None
    needs = K1_RULE
    fewest = 1
    remembers = True

    def __post_init__(self) -> None:
        if self.u not in ("opposing", "orthogonal"):
            raise ConfigError(f'u = {self.u!r}; allowed: "opposing", "orthogonal"')
        if self.tau is not None and not (self.tau > 0 and isfinite(self.tau)):
            raise ConfigError(f"tau = {self.tau}; it must be finite and above 0")

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        middle = mean(sight.known)
        step = last_step(sight)
        centre = np.zeros_like(middle) if step is None else step
        return sight.everyone(centre + self._distance(sight) * unit(middle, centre, self.u == "orthogonal"))

    def _distance(self, sight: Sight) -> float:
        if self.tau is not None:
            return self.tau
        if sight.rule is None:
            raise NotGranted("Relocated goes as far as the rule's radius; tell it the rule, or set tau", field="knowledge")
        if "radius" not in sight.rule.recipe.options:
            raise ConfigError(f"rule {sight.rule.name!r} has no radius; set tau, or attack centred_clipping")
        return float(sight.rule.recipe.options["radius"])


def unit(middle: Array, centre: Array, orthogonal: bool) -> Array:
    """(d,) of length 1 that points away from the honest mean, orthogonal to the centre if asked; zeros where there is none."""
    away = centre - middle
    square = float(centre @ centre)
    if orthogonal and square > 0.0:
        away = away - centre * (float(away @ centre) / square)
    size = float(np.linalg.norm(away))
    return away / size if size else np.zeros_like(away)
