"""What an event costs: as squared mu (exact for Gaussian releases), and as Renyi divergence of an order (knows subsampling).

Both hold when each event is chosen after seeing all releases before it, and both add up.
"""

from functools import lru_cache
from math import inf, isinf, sqrt

from edgehold.core.errors import ConfigError
from edgehold.core.privacy import renyi
from edgehold.core.privacy.events import ErrorFeedback, Event, Gaussian, SampledGaussian

_SHARES = tuple(step / 40 for step in range(1, 40))
"""Splits of the noise between the fresh part of a step and the error vector that are tried."""


def squared_mu(event: Event) -> float:
    """Squared mu of the whole event; infinite when nothing bounds it. Knows no gain from sampling."""
    if isinstance(event, Gaussian):
        return float(event.releases * (event.sensitivity / event.sigma) ** 2)
    if isinstance(event, SampledGaussian):
        return float(event.steps * (event.sensitivity / event.sigma) ** 2)
    if isinstance(event, ErrorFeedback):
        return min(_worst_case(event), _bounded(event))
    raise ConfigError(f"no accountant understands {type(event).__name__}; it must not be released")


def divergence(event: Event, order: float) -> float:
    """Renyi divergence of that order (above 1) of the whole event; infinite when nothing bounds it."""
    plain = order * squared_mu(event) / 2
    if isinstance(event, SampledGaussian):
        return min(plain, event.steps * renyi.subsampled(event.rate, event.sensitivity / event.sigma, order))
    if isinstance(event, ErrorFeedback) and event.sampling == "poisson":
        return min(plain, _amplified(event, order))
    return plain


def _worst_case(event: ErrorFeedback) -> float:
    """Accountant A: two clipped error vectors are never farther apart than 2 error_clip. No bound on gradients.

    mu^2 = [C1^2 + (k - 1)(C1 + 2 C2)^2 + (T - k)(2 C2)^2] / sigma^2 for k uses of a record in T steps; with one use its own
    first step moves by C1 alone, because the vector was the same until then.
    """
    first, error = event.clip**2, (2 * event.error_clip) ** 2
    both = (event.clip + 2 * event.error_clip) ** 2
    if isinf(error):
        return inf

    def total(uses: int, steps: int) -> float:
        return first + (uses - 1) * both + (steps - uses) * error if steps else 0.0

    if event.sampling == "poisson":  # a record may come into every batch
        found = total(event.earlier_steps + event.steps, event.earlier_steps + event.steps)
        found -= total(event.earlier_steps, event.earlier_steps)
    elif event.reset:
        found = event.epochs * total(1, -(-event.steps // event.epochs))
    else:
        found = total(event.earlier_epochs + event.epochs, event.earlier_steps + event.steps)
        found -= total(event.earlier_epochs, event.earlier_steps)
    return found / event.sigma**2


def _bounded(event: ErrorFeedback) -> float:
    """Accountant C: gradients are cut at `ceiling`: one use leaves at most rho = ceiling - clip in the error vector, and
    projections never spread it: all the shifts it causes later have squares that sum to at most rho^2, for any error_clip.

    mu = sqrt(epochs (C1^2 + rho^2)) / sigma with a reset per epoch, (sqrt(k) C1 + k rho) / sigma for k uses without one.
    """
    if isinf(event.ceiling):
        return inf
    left = max(event.ceiling - event.clip, 0.0)
    if event.sampling == "bins" and event.reset:
        return float(event.epochs * (event.clip**2 + left**2) / event.sigma**2)
    now, before = (event.epochs, event.earlier_epochs) if event.sampling == "bins" else (event.steps, event.earlier_steps)
    return float((_uses(now + before, event.clip, left) - _uses(before, event.clip, left)) / event.sigma**2)


def _uses(count: int, clip: float, left: float) -> float:
    return float((sqrt(count) * clip + count * left) ** 2)


@lru_cache(maxsize=4096)
def _amplified(event: ErrorFeedback, order: float) -> float:
    """Accountant B: the fresh part of a step is amplified by Poisson sampling, the error vector moves by up to 2 error_clip.

    Per step, over the share of the noise given to the fresh part: SGM(order; rate, C1 / (sqrt(share) sigma)) +
    2 order C2^2 / ((1 - share) sigma^2); in the very first step of a vector there is nothing in it yet.
    """
    if isinf(event.error_clip):
        return inf
    mu = event.clip / event.sigma
    first = renyi.subsampled(event.rate, mu, order)
    if event.error_clip == 0:
        return event.steps * first
    error = 2 * order * (event.error_clip / event.sigma) ** 2
    later = min(renyi.subsampled(event.rate, mu / sqrt(share), order) + error / (1 - share) for share in _SHARES)
    return (event.steps - 1) * later + (later if event.earlier_steps else first)
