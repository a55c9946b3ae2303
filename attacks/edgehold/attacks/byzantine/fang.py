"""Fang's attacks: against the direction in which honest clients move, each fitted to its rule.

`FangTrimmed` (trimmed mean, median): in each coordinate values just beyond the honest extreme on the wrong side. `FangKrum`:
the largest step against all signs that Krum still picks. Knowledge K1 or K2, and the rule (+A).
Source: Fang et al. 2020, section 3.2 to 3.4. Departure: with K1 the liars' own extremes stand for the honest ones, where the
authors guess them from mean and deviation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np

from edgehold.attacks.byzantine.knowledge import K1_RULE
from edgehold.attacks.byzantine.rule import ServerRule, clients_of
from edgehold.attacks.byzantine.search import STOP
from edgehold.attacks.byzantine.sight import Lies, Sight, mean
from edgehold.core.errors import ConfigError, NotGranted
from edgehold.core.vectors import Array, FloatArray

JITTER = 1e-3
"""Length of what makes copies differ, as a share of the lie's. Source: the attack catalogue of this project, section 0."""


def beyond(least: Array, most: Array, signs: Array, b: float) -> tuple[Array, Array]:
    """(d,) float64 each: between which values the lie is drawn.

    Where honest changes rise (sign 1, or 0), from the smallest one down: to a b-th of it, or b times it where it is negative.
    Where they fall, from the largest one up, to b times it, or a b-th of it where it is negative.
    """
    down = np.where(least > 0, least / b, least * b)
    up = np.where(most > 0, most * b, most / b)
    falls = signs < 0
    return np.where(falls, most, down), np.where(falls, up, least)


@dataclass(frozen=True)
class FangTrimmed:
    """b: how far beyond the extreme, above 1. Each liar draws its own values."""

    b: float = 2.0
    needs = K1_RULE
    fewest = 2
    remembers = False

    def __post_init__(self) -> None:
        if not (self.b > 1 and isfinite(self.b)):
            raise ConfigError(f"b = {self.b}; it must be finite and above 1")

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        least, most = _extremes(sight.known)
        low, high = beyond(least, most, np.sign(mean(sight.known)), self.b)
        return {client: low + (high - low) * sight.rng.random(len(low)) for client in sight.own}


@dataclass(frozen=True)
class FangKrum:
    """Sends -lambda times the signs of the honest mean, from the bound of the paper down by halves until Krum picks it.

    All but the first liar send it with a little noise, so that they differ. Where Krum picks it at no length above `STOP` of
    the bound, that shortest one is sent. Source: Fang et al. 2020, theorem 1 for the bound.
    """

    needs = K1_RULE
    fewest = 2
    remembers = False

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        if sight.rule is None:
            raise NotGranted("FangKrum works out what Krum picks, so it must be told the rule itself", field="knowledge")
        if sight.rule.recipe.rule.card.name not in ("krum", "multi_krum"):
            raise ConfigError(f"FangKrum is made for krum and multi_krum; the server's rule is {sight.rule.name!r}")
        push = -np.sign(mean(sight.known))
        line = sight.rule.line(sight, np.zeros_like(push), push)
        bound = upper(sight, sight.rule)
        length = bound
        while not line.picked(length) and length > STOP * bound:
            length /= 2
        lie = length * push
        lies = {}
        for index, client in enumerate(sight.own):
            noise = sight.rng.standard_normal(len(lie)) if index else np.zeros(len(lie))
            size = float(np.linalg.norm(noise))
            lies[client] = lie + noise * (JITTER * float(np.linalg.norm(lie)) / size if size else 0.0)
        return lies


def upper(sight: Sight, rule: ServerRule) -> float:
    """A length above which Krum cannot pick the lie, as changes are measured from the global model.

    sqrt of the smallest sum of squared distances from an honest update to its n - f - 2 nearest (at least 1) honest others,
    over (n - 2f - 1) d, plus the largest length of an honest update over sqrt(d).
    """
    rows = np.array(list(sight.known.values()), dtype=np.float64)
    d, n, f = rows.shape[1], len(rows) + sight.liars, rule.liars
    if len(rows) != clients_of(sight):
        n, f = 2 * len(rows), 0  # a smaller round: a bound that is too large costs halvings, no more
    squares = (rows**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * (rows @ rows.T), 0.0)
    np.fill_diagonal(distances, np.inf)
    near = min(max(n - f - 2, 1), len(rows) - 1)
    least = float(np.sort(distances, axis=1)[:, :near].sum(axis=1).min())
    bound = sqrt(least / (max(n - 2 * f - 1, 1) * d)) + sqrt(float(squares.max()) / d)
    return bound or 1.0


def _extremes(changes: Mapping[str, FloatArray]) -> tuple[Array, Array]:
    least = most = None
    for change in changes.values():
        least = change if least is None else np.minimum(least, change)
        most = change if most is None else np.maximum(most, change)
    assert least is not None, "at least one change is known"
    assert most is not None
    return least.astype(np.float64), most.astype(np.float64)
