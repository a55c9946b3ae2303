"""What a whole run costs a client, and how much noise a wanted epsilon takes: as the ledger of a device would keep it."""

from functools import lru_cache
from math import inf, sqrt

from msgspec.structs import replace

from edgehold.core.errors import ConfigError
from edgehold.core.privacy import gaussian, renyi
from edgehold.core.privacy.budget import Filter, Spent, best_filter
from edgehold.defenses.dp_ef_sgd.state import Training

_LOUDEST = 1e6


@lru_cache(maxsize=65536)
def spent_after(training: Training, size: int, rounds: int, chosen: Filter) -> Spent:
    """What `rounds` admitted rounds of a model with `size` values cost under that filter."""
    steps, epochs, spent = 0, 0, Spent()
    vector = "0" * 64 if training.lives_on else ""
    for _ in range(rounds):
        for event in training.released(size, steps, epochs, vector) if vector else training.released(size):
            spent = spent.plus(event, chosen)
        steps, epochs = steps + training.steps_per_round, epochs + training.local_epochs
    return spent


def epsilon_after(training: Training, size: int, rounds: int, delta: float) -> float:
    """Epsilon at `delta` of so many rounds of a plan that was fixed beforehand: the best of all accounts.

    A device's ledger, which must bear plans that are made up as one goes, fixes its account with a data set's first charge, and
    can come to more.
    """
    found = [Filter(), *(Filter(order) for order in renyi.ORDERS)]
    if training.sampling == "bins":  # no gain from sampling: the exact curve is the best
        found = found[:1]
    return min(spent_after(training, size, rounds, chosen).epsilon(chosen, delta) for chosen in found)


def noise_for(training: Training, size: int, rounds: int, epsilon: float, delta: float) -> Training:
    """The training with the least noise (within 0.01 %) with which so many rounds stay within a data set's whole budget of
    (epsilon, delta), as its ledger keeps it.

    Settings that mean something in deviations of the noise are left alone. `ConfigError` when no noise is enough.
    """

    def costs(multiplier: float) -> float:
        louder = replace(training, noise_multiplier=multiplier)
        chosen = best_filter(louder.released(size)[0], epsilon, delta)
        return spent_after(louder, size, rounds, chosen).epsilon(chosen, delta)

    low, high = 0.0, 1.0
    while costs(high) > epsilon:
        low, high = high, 2 * high
        if high > _LOUDEST:
            raise ConfigError(f"no noise keeps {rounds} rounds within epsilon {epsilon:g} at delta {delta:g}")
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if costs(middle) <= epsilon else (middle, high)
    return replace(training, noise_multiplier=high)


def conditional_epsilon(training: Training, rounds: int, delta: float) -> float:
    """What the paper's accounting claims: CONDITIONAL, not certified; for research and comparison alone.

    The noise is read as that of a Poisson-subsampled Gaussian of sensitivity sqrt(C1^2 + 2 C2^2) (sum scale). A record that has
    been drawn sits in the error vector with certainty, so that this can be far too small (README.md has a counter-example).
    """
    if training.error_clip == inf:
        return inf
    rate = training.rate if training.sampling == "poisson" else 1.0 / training.bins
    mu = sqrt(training.clip**2 + 2 * training.error_clip**2) / training.sigma
    steps = rounds * training.steps_per_round
    found = [renyi.epsilon_of(steps * renyi.subsampled(rate, mu, order), order, delta) for order in renyi.ORDERS]
    return min(*found, gaussian.epsilon_of(sqrt(steps) * mu, delta))
