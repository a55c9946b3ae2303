"""IPM or ALIE with the factor that does most harm against the server's own rule: a grid, golden sections, confirmation.

Knowledge K1+A, best K2+A. Source: Allouah et al. 2023; ByzFL's optimal attacks (there expansion and contraction from 0 on, on
one side). Departure: both signs, and inner products instead of whole rounds wherever the rule is told by name (`rule`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgehold.attacks.byzantine.harm import along
from edgehold.attacks.byzantine.knowledge import K1_RULE
from edgehold.attacks.byzantine.search import GRID, best, golden
from edgehold.attacks.byzantine.sight import Lies, Sight, moments
from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError

CONFIRMED = 3
"""How many of the best factors are tried on all coordinates where the search saw part of them."""


@dataclass(frozen=True)
class Optimised:
    """kind: "ipm" sends tau * mean, "alie" mean + tau * sd. grid: factors tried first, ascending; steps: golden sections around
    the best one; farther: how often the best end of the grid may be doubled first.
    """

    kind: Literal["ipm", "alie"] = "alie"
    grid: Sequence[float] = GRID
    steps: int = 12
    farther: int = 12
    needs = K1_RULE
    fewest = 2
    remembers = False

    def __post_init__(self) -> None:
        if self.kind not in ("ipm", "alie"):
            raise ConfigError(f"kind = {self.kind!r}{suggest(self.kind, ['ipm', 'alie'])}")
        if list(self.grid) != sorted(self.grid) or not len(self.grid):
            raise ConfigError(f"grid = {self.grid}; expected ascending factors, at least one")
        if self.steps < 0 or self.farther < 0:
            raise ConfigError(f"steps = {self.steps}, farther = {self.farther}; neither may be below 0")

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        middle, spread = moments(sight.known)
        base, push = (middle, spread) if self.kind == "alie" else (np.zeros_like(middle), middle)
        line = along(sight, base, push)
        found = best(golden(line.score, self.grid, self.steps, self.farther), CONFIRMED if line.sampled else 1)
        tau = max(found, key=line.exact) if len(found) > 1 else found[0]
        return sight.everyone(base + tau * push)
