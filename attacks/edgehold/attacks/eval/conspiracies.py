"""Attackers who know every honest update of the round (K2), for methods whose update is a change of the model.

They are what a defence has to be measured against in a simulation; over the network use `edgehold.attacks.byzantine`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from edgehold.attacks.byzantine import ranks, signs
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array, Vector
from edgehold.server.engine import View


@dataclass(frozen=True)
class SignFlip:
    """Everyone sends -scale times his own honest update (K0; here so that all attacks are played the same way)."""

    members: frozenset[str]
    scale: float = 1.0

    def lie(self, view: View) -> Mapping[str, Any]:
        """See the class."""
        return {client: _with(view.own[client], -self.scale * _delta(view.own[client])) for client in view.own}


@dataclass(frozen=True)
class Ipm:
    """Everyone sends -tau times the mean of all honest updates. Source: Xie et al. 2020."""

    members: frozenset[str]
    tau: float = 0.5

    def lie(self, view: View) -> Mapping[str, Any]:
        """See the class."""
        mean = _rows(view).mean(axis=0)
        return {client: _with(view.own[client], -self.tau * mean) for client in view.own}


@dataclass(frozen=True)
class Alie:
    """Everyone sends mean + sign * z * sd of all honest updates, coordinate by coordinate (sd divided by h - 1).

    sign: -1, +1, or 0 to try both on the server's own rule and keep the one that moves the model farther from where the
    honest mean alone would take it (knowledge K2+A). Source: Baruch et al. 2019.
    """

    members: frozenset[str]
    z: float = 1.5
    sign: Literal[-1, 0, 1] = 0

    def lie(self, view: View) -> Mapping[str, Any]:
        """See the class."""
        rows = _rows(view)
        if len(rows) < 2:
            return {}
        mean, spread = rows.mean(axis=0), rows.std(axis=0, ddof=1)
        choices = [
            {client: _with(view.own[client], mean + sign * self.z * spread) for client in view.own}
            for sign in ((self.sign,) if self.sign else (-1, 1))
        ]
        if len(choices) == 1:
            return choices[0]
        return max(choices, key=lambda lies: harm(view, lies, mean))


@dataclass(frozen=True)
class Ranks:
    """FRL: the lie on rankings that `lie_name` names in `edgehold.attacks.byzantine.ranks` (K1: only the members' own honest
    rankings are used). cap: see there. minority: where half or more of a round's voters are members, just fewer than half of
    the votes are lies and the other members vote honestly: as near as a conspiracy comes to drawing such rounds again.
    """

    members: frozenset[str]
    lie_name: str
    cap: int | None = None
    minority: bool = False

    def lie(self, view: View) -> Mapping[str, Any]:
        """See the class."""
        known = [update.ranks for update in view.own.values()]
        liars = list(view.own.items())
        if self.minority:
            liars = liars[: (len(view.honest) + len(view.own) - 1) // 2]
        votes, keep = len(view.honest) + len(view.own), view.order.training.keep
        return {
            client: replace(update, ranks=ranks.forge(self.lie_name, update.ranks, known, votes, keep, self.cap))
            for client, update in liars
        }


@dataclass(frozen=True)
class Signs:
    """HideNseek: the lie on sign bits that `lie_name` names in `edgehold.attacks.byzantine.signs` (K1: only the members' own
    honest bits are used).
    """

    members: frozenset[str]
    lie_name: str

    def lie(self, view: View) -> Mapping[str, Any]:
        """See the class."""
        kept = int(view.order.mask.sum())
        own = {client: signs.bits_of(update, kept) for client, update in view.own.items()}
        known = list(own.values())
        return {client: signs.forged(signs.LIES[self.lie_name](bits, known)) for client, bits in own.items()}


GRID = (0.5, 1.0, 2.0, 5.0, 20.0)
"""Factors that are tried first, with both signs."""
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Searched:
    """IPM or ALIE with the factor that does most harm against the server's own rule (K2+A): a grid, then golden sections.

    kind: "ipm" sends tau * mean, "alie" mean + tau * sd; steps: golden sections around the best of the grid; each costs the
    conspirators one aggregation. Source: Allouah et al. 2023 and ByzFL's optimal attacks.
    """

    members: frozenset[str]
    kind: Literal["ipm", "alie"] = "alie"
    steps: int = 4

    def lie(self, view: View) -> Mapping[str, Any]:
        """See the class."""
        rows = _rows(view)
        if len(rows) < 2:
            return {}
        mean = rows.mean(axis=0)
        base, push = (mean, rows.std(axis=0, ddof=1)) if self.kind == "alie" else (np.zeros_like(mean), mean)

        def lies(tau: float) -> dict[str, Any]:
            return {client: _with(view.own[client], base + tau * push) for client in view.own}

        def found(tau: float) -> float:
            return harm(view, lies(tau), mean)

        grid = [-tau for tau in reversed(GRID)] + [0.0, *GRID]
        scores = [found(tau) for tau in grid]
        best = int(np.argmax(scores))
        tau, score = grid[best], scores[best]
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        at_left, at_right = found(left), found(right)
        for _ in range(self.steps):
            tau, score = max((tau, score), (left, at_left), (right, at_right), key=lambda pair: pair[1])
            if at_left >= at_right:
                high, right, at_right = right, left, at_left
                left = high - GOLDEN * (high - low)
                at_left = found(left)
            else:
                low, left, at_left = left, right, at_right
                right = low + GOLDEN * (high - low)
                at_right = found(right)
        return lies(tau)


def harm(view: View, lies: Mapping[str, Any], mean: Array) -> float:
    """Distance of the model after the round from where the honest mean would take it, |A - mu|.

    mean: (d,) float64, of the honest updates. Exact for a server that takes the aggregate as its step.
    """
    moved = view.outcome(lies).whole().astype(np.float64) - view.model.whole()
    return float(np.linalg.norm(moved - mean))


def _rows(view: View) -> Array:
    """(h, d) float64: everybody's honest changes but the conspirators' own; theirs when there is nobody else."""
    known = view.honest or view.own
    return np.array([_delta(update) for update in known.values()], dtype=np.float64)


def _delta(update: Any) -> Array:
    try:
        delta: Vector = update.delta
    except AttributeError:
        raise ConfigError(
            f"this attack changes updates that carry a delta; {type(update).__qualname__} has none. "
            "Choose an attack on this method's own payload"
        ) from None
    return delta.whole()


def _with(update: Any, delta: Array) -> Any:
    return replace(update, delta=Vector.of(delta.astype(np.float32)))
