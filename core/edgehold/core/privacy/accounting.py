"""What an event costs: as squared mu (exact for Gaussian releases), and as Renyi divergence of an order (knows subsampling).

Both hold when each event is chosen after seeing all releases before it, and both add up.
"""

from collections.abc import Callable
from functools import lru_cache
from math import inf, isinf, sqrt

from msgspec.structs import replace

from edgehold.core.errors import ConfigError
from edgehold.core.privacy import renyi
from edgehold.core.privacy.events import ErrorFeedback, Event, Gaussian, SampledGaussian, Skellam

_SHARES = tuple(step / 40 for step in range(1, 40))
"""Splits of the noise between the fresh part of a step and the error vector that are tried."""


def squared_mu(event: Event) -> float:
    """Squared mu of the whole event; infinite when nothing bounds it. Knows no gain from sampling."""
    if isinstance(event, Gaussian):
        return float(event.releases * (event.sensitivity / event.sigma) ** 2)
    if isinstance(event, SampledGaussian):
        return float(event.steps * (event.sensitivity / event.sigma) ** 2)
    if isinstance(event, ErrorFeedback):
        return _added(event, _squared_mu)
    if isinstance(event, Skellam):
        return inf  # its tails are heavier than a Gaussian's: no mu bounds them, Renyi divergences do
    raise ConfigError(f"no accountant understands {type(event).__name__}; it must not be released")


def divergence(event: Event, order: float) -> float:
    """Renyi divergence of that order (above 1) of the whole event; infinite when nothing bounds it."""
    if isinstance(event, ErrorFeedback):
        return _added(event, lambda all_: _divergence(all_, order))
    if isinstance(event, Skellam):
        return event.releases * renyi.skellam(event.sensitivity, event.absolute, event.variance, order)
    plain = renyi.gaussian(sqrt(squared_mu(event)), order)
    if isinstance(event, SampledGaussian):
        return min(plain, event.steps * renyi.subsampled(event.rate, event.sensitivity / event.sigma, order))
    return plain


def _added(event: ErrorFeedback, total: Callable[[ErrorFeedback], float]) -> float:
    """What the event adds to all that was charged for its error vector: bounds of a vector's whole life are no sums over parts,
    and the best bound of each part would not add up to a bound.
    """
    steps, epochs = event.earlier_steps, event.earlier_epochs
    whole = replace(
        event, steps=event.steps + steps, epochs=event.epochs + epochs, earlier_steps=0, earlier_epochs=0, vector=""
    )
    after = total(whole)
    if not steps or isinf(after):
        return after
    return after - total(replace(whole, steps=steps, epochs=max(epochs, 1)))


@lru_cache(maxsize=4096)
def _squared_mu(event: ErrorFeedback) -> float:
    """The better of A and C. Rounding moves a step by up to `grid` more; the squares sum to (mu + sqrt(steps) grid)^2."""
    found = min(_worst_case(event), _bounded(event))
    return inf if isinf(found) else float((sqrt(found) + sqrt(event.steps) * event.grid) ** 2)


@lru_cache(maxsize=4096)
def _divergence(event: ErrorFeedback, order: float) -> float:
    plain = renyi.gaussian(sqrt(_squared_mu(event)), order)
    return min(plain, _amplified(event, order)) if event.sampling == "poisson" else plain


def _worst_case(event: ErrorFeedback) -> float:
    """Accountant A: two clipped error vectors are never farther apart than 2 error_clip. No bound on gradients.

    mu^2 = [C1^2 + (k - 1)(C1 + 2 C2)^2 + (T - k)(2 C2)^2] / sigma^2 for k uses of a record in T steps: the very first step of a
    vector moves by C1 alone, because there is nothing in it yet.
    """
    if isinf(event.error_clip):
        return inf
    lives, steps = (event.epochs, -(-event.steps // event.epochs)) if _resets(event) else (1, event.steps)
    uses = steps if event.sampling == "poisson" else event.epochs // lives
    error = (2 * event.error_clip) ** 2
    both = (event.clip + 2 * event.error_clip) ** 2
    return lives * (event.clip**2 + (uses - 1) * both + (steps - uses) * error) / event.sigma**2


def _bounded(event: ErrorFeedback) -> float:
    """Accountant C: gradients are cut at `ceiling`: one use leaves at most rho = ceiling - clip in the error vector, and
    projections never spread it: all the shifts it causes later have squares that sum to at most rho^2, for any error_clip.

    mu = sqrt(epochs (C1^2 + rho^2)) / sigma with a reset per epoch, (sqrt(k) C1 + k rho) / sigma for k uses without one.
    """
    if isinf(event.ceiling):
        return inf
    left = max(event.ceiling - event.clip, 0.0)
    if _resets(event):
        return float(event.epochs * (event.clip**2 + left**2) / event.sigma**2)
    uses = event.epochs if event.sampling == "bins" else event.steps
    return float(((sqrt(uses) * event.clip + uses * left) / event.sigma) ** 2)


def _resets(event: ErrorFeedback) -> bool:
    return event.sampling == "bins" and event.reset


def _amplified(event: ErrorFeedback, order: float) -> float:
    """Accountant B: the fresh part of a step is amplified by Poisson sampling, the error vector moves by up to 2 error_clip.

    Per step, over the share of the noise given to the fresh part: SGM(order; rate, C1 / (sqrt(share) sigma)) +
    2 order C2^2 / ((1 - share) sigma^2); in the very first step there is nothing in the vector yet.
    """
    if isinf(event.error_clip):
        return inf
    mu = event.clip / event.sigma + event.grid
    first = renyi.subsampled(event.rate, mu, order)
    if event.error_clip == 0:
        return event.steps * first
    error = renyi.gaussian(2 * event.error_clip / event.sigma + event.grid, order)
    fresh = renyi.subsampled_each(event.rate, tuple(mu / sqrt(share) for share in _SHARES), order)
    later = min(one + error / (1 - share) for one, share in zip(fresh, _SHARES, strict=True))
    return (event.steps - 1) * later + first
