"""A little is enough (ALIE): stay so close to the honest spread that no rule can tell, always on the same side.

Knowledge K1: liars share their honest updates (`channel`); K2: everybody's. To try both sides takes the server's rule (+A).
Source: Baruch et al. 2019, algorithm 3; z as there unless given.
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.alie:make", options = {folder = "...", colluders = 2}.
"""

from dataclasses import dataclass
from math import floor, isfinite
from statistics import NormalDist
from typing import Literal

from edgehold.attacks.byzantine.device import adversary
from edgehold.attacks.byzantine.harm import along
from edgehold.attacks.byzantine.knowledge import K1, K1_RULE, Knowledge
from edgehold.attacks.byzantine.sight import Lies, Sight, moments
from edgehold.core.contract import Adversary
from edgehold.core.errors import ConfigError

Side = Literal[-1, 0, 1]


def supported_z(cohort: int, colluders: int) -> float:
    """z so that enough honest clients lie farther out than the colluders to make these look like the majority.

    With s = floor(n/2 + 1) - f supporters needed among h = n - f honest ones: the normal quantile of (h - s) / h;
    0.3 where that is not above 0, 1.5 where no supporter is needed.
    """
    honest = cohort - colluders
    supporters = floor(cohort / 2 + 1) - colluders
    if supporters <= 0:
        return 1.5
    share = (honest - supporters) / honest if honest else 0.0
    z = NormalDist().inv_cdf(share) if share > 0 else 0.0
    return z if z > 0 else 0.3


@dataclass(frozen=True)
class Alie:
    """mean + sign * z * sd of the known honest updates, coordinate by coordinate (sd divided by their number - 1).

    z: None for the one of `supported_z`. sign: -1, +1, or 0 to try both on the server's rule and keep the one that does more
    harm. margin: by which share the upper side must be worse to be taken. On a rule that treats both sides alike, such as the
    average, rounding would change sides from round to round without it, and the lies would cancel.
    """

    z: float | None = None
    sign: Side = -1
    margin: float = 1e-3
    fewest = 2
    remembers = False

    def __post_init__(self) -> None:
        if self.sign not in (-1, 0, 1):
            raise ConfigError(f"sign = {self.sign}; allowed: -1, 0, 1")
        if self.z is not None and not (self.z > 0 and isfinite(self.z)):
            raise ConfigError(f"z = {self.z}; it must be finite and above 0")
        if not self.margin >= 0:
            raise ConfigError(f"margin = {self.margin}; it must not be below 0")

    @property
    def needs(self) -> Knowledge:
        """See `Attack`."""
        return K1 if self.sign else K1_RULE

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        middle, spread = moments(sight.known)
        z = supported_z(sight.clients, sight.liars) if self.z is None else self.z
        if self.sign:
            return sight.everyone(middle + self.sign * z * spread)
        line = along(sight, middle, spread)
        above = line.exact(z) > (1.0 + self.margin) * line.exact(-z)
        return sight.everyone(middle + (z if above else -z) * spread)


def make(
    folder: str, colluders: int = 2, cohort: int = 8, z: float | None = None, sign: Side = -1, wait_s: float = 5.0
) -> Adversary:
    """`Alie` on a device; the rest as in `device.adversary`."""
    return adversary(Alie(z, sign), folder, colluders, cohort, wait_s)
