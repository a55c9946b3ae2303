"""Inner-product manipulation (IPM, "fall of empires"): push against the direction in which everybody else moves.

A small tau hides among honest updates and slips past Krum; a large one drags an average or stalls a median. Knowledge K1: liars
share their honest updates (`channel`); K2: everybody's. Source: Xie et al. 2020.
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.ipm:make", options = {folder = "...", colluders = 2}.
"""

from dataclasses import dataclass
from math import isfinite

from edgehold.attacks.byzantine.device import adversary
from edgehold.attacks.byzantine.knowledge import K1
from edgehold.attacks.byzantine.sight import Forgetful, Lies, Sight, mean
from edgehold.core.contract import Adversary
from edgehold.core.errors import ConfigError


@dataclass(frozen=True)
class Ipm(Forgetful):
    """-tau times the mean of the known honest updates. tau: 0.1 against Krum-like rules, 0.5, 2 or 100 against averages and
    medians.
    """

    tau: float = 0.5
    needs = K1

    def __post_init__(self) -> None:
        if not (self.tau > 0 and isfinite(self.tau)):
            raise ConfigError(f"tau = {self.tau}; it must be finite and above 0, or this pushes nowhere")

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        return sight.everyone(-self.tau * mean(sight.known))


def make(folder: str = "", colluders: int = 1, tau: float = 0.5, wait_s: float = 5.0) -> Adversary:
    """`Ipm` on a device; the rest as in `device.adversary`."""
    return adversary(Ipm(tau), folder, colluders, None, wait_s)
