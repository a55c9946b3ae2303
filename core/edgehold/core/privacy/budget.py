"""How much may still be released: a budget of (epsilon, delta) as a filter over events that are chosen as one goes.

A filter stops before its bound is passed, on every path, and then the whole interaction has that bound, however each release
was chosen from those before it: squared mu adds up so, and so does Renyi divergence at one order fixed beforehand. Sources:
Feldman and Zrnic 2021, "Individual privacy accounting via a Renyi filter"; Smith and Thakurta 2022, "Fully adaptive composition
for Gaussian differential privacy".
"""

from dataclasses import dataclass
from math import expm1, inf, isinf, sqrt

from edgehold.core.privacy import accounting, gaussian, renyi
from edgehold.core.privacy.events import Event

_LARGEST = 700.0
"""Epsilons beyond this are told as infinite: e^epsilon is no float any more."""
_STRIDE = 6
"""Orders between two that are tried first."""


@dataclass(frozen=True, slots=True)
class Filter:
    """order: 0 for squared mu, above 1 for the Renyi divergence of that order."""

    order: float = 0.0

    def cost(self, event: Event) -> float:
        """What the event adds."""
        return accounting.divergence(event, self.order) if self.order else accounting.squared_mu(event)

    def epsilon(self, total: float, delta: float) -> float:
        """Epsilon of everything so far at `delta` in (0, 1)."""
        if isinf(total):
            return inf
        if total == 0:
            return 0.0
        return renyi.epsilon_of(total, self.order, delta) if self.order else gaussian.epsilon_of(sqrt(total), delta)


@dataclass(frozen=True, slots=True)
class Spent:
    """total: by the filter; ratio, distance: of the samplers (`events.Sampler`), summed."""

    total: float = 0.0
    ratio: float = 0.0
    distance: float = 0.0

    def plus(self, event: Event, filter_: Filter) -> "Spent":
        """After one more event."""
        return Spent(self.total + filter_.cost(event), self.ratio + event.sampler.ratio, self.distance + event.sampler.distance)

    def epsilon(self, filter_: Filter, delta: float) -> float:
        """Epsilon at `delta`, with what the samplers differ from their law; infinite when delta does not allow that.

        If each outcome is at most e^r as likely, and t in total variation apart, (eps, d)-DP of the ideal release becomes
        (eps + 2 r, e^r d + (1 + e^(eps + 2 r)) t)-DP of the real one.
        """
        if self.distance == 0 and self.ratio == 0:
            return filter_.epsilon(self.total, delta)
        # Half of delta at most goes to the samplers; which epsilon that allows is known only afterwards.
        share = 0.0
        for _ in range(64):
            ideal = filter_.epsilon(self.total, delta * (1 - share) * (1 - self.ratio)) if share < 0.5 else inf
            found = ideal + 2 * self.ratio
            if isinf(found) or found > _LARGEST:
                return inf
            needed = (2 + expm1(found)) * self.distance / delta
            if needed <= share:
                return found
            share = 1.01 * needed + 1e-12
        return inf


def best_filter(first: Event, epsilon: float, delta: float) -> Filter:
    """The filter under which the most events like `first` fit into the budget: fixed once, before the first release."""
    plain = accounting.squared_mu(first)
    most = gaussian.mu_of(epsilon, delta) ** 2 / plain if plain else inf

    def fits(at: int) -> float:
        order = renyi.ORDERS[at]
        room, cost = renyi.divergence_of(epsilon, order, delta), accounting.divergence(first, order)
        return room / cost if room > 0 and cost else 0.0

    # Every order would be sound: a few far apart, then those around the best of them, are found in a hundredth of a second.
    coarse = max(range(0, len(renyi.ORDERS), _STRIDE), key=fits)
    best = max(range(max(0, coarse - _STRIDE + 1), min(len(renyi.ORDERS), coarse + _STRIDE)), key=fits)
    return Filter(renyi.ORDERS[best]) if fits(best) > 1.0001 * most else Filter()
