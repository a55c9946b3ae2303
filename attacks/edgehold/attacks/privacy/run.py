"""The audit of a private method in one run: canaries go through the device half as it ships, and its update is looked at.

Canary i is a record whose gradient is a multiple of the i-th unit vector, whatever the weights are: a linear model without
bias, one-hot inputs, the output as loss. Each is in the data set by a fair coin of its own. One round is trained; the score of
a canary is the update's projection on its direction, all that a server is ever shown. `audit` turns scores into a bound on
epsilon, to be held against what the round's events would be charged as.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from msgspec.structs import replace as changed
from scipy.stats import binom

from edgehold.attacks.privacy.audit import Verdict, audit
from edgehold.attacks.privacy.bound import epsilon_lower_bound
from edgehold.core.config import suggest
from edgehold.core.contract import PrivateClientSide
from edgehold.core.errors import ConfigError
from edgehold.core.privacy.budget import Spent, best_filter
from edgehold.core.vectors import Vector
from edgehold.defenses import registry
from edgehold.defenses.dp_ef_sgd.accounts import noise_for
from edgehold.defenses.dp_ef_sgd.state import Order, Training

LARGE = 1000.0
"""Norm of a canary's gradient: far beyond every clip."""
CONFIDENCE = 0.95
FEWEST = 100
"""Canaries, below which no epsilon worth speaking of can be shown."""

TRAININGS = {
    # What clipping keeps back of a canary in the first of two batches comes out in the second: two shifts of 1, as accounted.
    "dp_ef_sgd": Training(clip=1.0, ceiling=2.0, sampling="bins", bins=2),
    "dp_sgd": Training(clip=1.0, error_clip=0.0, sampling="poisson", rate=0.5, steps=8),
}
"""How each method trains under audit: where its account is nearly exact, so that noise that is missing shows."""


@dataclass(frozen=True, slots=True)
class Wish:
    """epsilon, delta: what the method is set to promise; runs: trainings, each with coins and noise of its own.

    noise_factor: multiplies the noise while the promise stays; other than 1 it plants a bug, which the audit must see.
    """

    method: str
    epsilon: float
    delta: float
    canaries: int
    runs: int
    noise_factor: float = 1.0

    def must_be_sound(self) -> None:
        """`ConfigError` for a method or a number that cannot be audited."""
        if self.method not in TRAININGS:
            raise ConfigError(
                f"method = {self.method!r}{suggest(self.method, list(TRAININGS))}; an audit knows {', '.join(TRAININGS)}",
                field="method",
            )
        if not (self.epsilon > 0 and 0 < self.delta < 1 and self.noise_factor > 0):
            raise ConfigError(
                f"epsilon = {self.epsilon}, delta = {self.delta}, noise_factor = {self.noise_factor}; epsilon and noise_factor "
                "must be above 0, delta in (0, 1)",
                field="epsilon",
            )
        if self.canaries < FEWEST or self.runs < 1:
            raise ConfigError(
                f"canaries = {self.canaries}, runs = {self.runs}; at least {FEWEST} canaries and one run", field="canaries"
            )


@dataclass(frozen=True, slots=True)
class Found:
    """claimed: epsilon as a ledger would charge a round; ceiling: the most that so many guesses could have shown.

    above: runs whose bound is above the claim; each may be with a chance of 5 % at most when the claim holds.
    """

    claimed: float
    ceiling: float
    noise_multiplier: float
    verdicts: tuple[Verdict, ...]

    @property
    def above(self) -> int:
        """Runs that refute the claim."""
        return sum(verdict.epsilon_lower > self.claimed for verdict in self.verdicts)

    @property
    def holds(self) -> bool:
        """Whether chance can explain the runs above the claim: as many come about at least once in a thousand audits."""
        return bool(binom.sf(self.above - 1, len(self.verdicts), 1 - CONFIDENCE) >= 1e-3)


def run(wish: Wish) -> Found:
    """Audit the method as the wish says. Needs PyTorch."""
    wish.must_be_sound()
    count = wish.canaries
    how = changed(TRAININGS[wish.method], batch_size=float(count))
    how = noise_for(how, count, 1, wish.epsilon, wish.delta)
    promised = how.released(count)
    chosen, spent = best_filter(promised[0], wish.epsilon, wish.delta), Spent()
    for event in promised:
        spent = spent.plus(event, chosen)
    guesses = count // 20  # of either kind: where scores are most telling
    verdicts = tuple(_one(wish, how, guesses) for _ in range(wish.runs))
    ceiling = epsilon_lower_bound(count, 2 * guesses, 2 * guesses, wish.delta, CONFIDENCE)
    return Found(spent.epsilon(chosen, wish.delta), ceiling, how.noise_multiplier, verdicts)


def _one(wish: Wish, how: Training, guesses: int) -> Verdict:
    """One training and its verdict."""
    import torch

    from edgehold.core.torch_task import TorchTask

    count = wish.canaries
    coins = np.random.default_rng()  # seeded by the operating system
    included = coins.random(count) < 0.5
    # One record without a gradient, so that there is a data set whatever the coins say.
    inputs = np.zeros((1 + int(included.sum()), count), np.float32)
    inputs[np.arange(1, len(inputs)), np.flatnonzero(included)] = LARGE
    data = (inputs, np.zeros(len(inputs), np.float32))
    task = TorchTask(lambda: torch.nn.Linear(count, 1, bias=False), data, None, lambda outputs, targets: outputs.mean())
    order = Order(Vector.of(np.zeros(count, np.float32)), how, 0)
    half = cast(PrivateClientSide[Any, Any, Any], registry.client_side(wish.method))
    local = half.begin(order, task, coins)
    if half.charges(order, local, task) != how.released(count):
        raise ConfigError(f"{wish.method} charges something else than its settings say; there is no claim to audit")
    planted = replace(order, training=changed(how, noise_multiplier=how.noise_multiplier * wish.noise_factor))
    _, update, _ = half.work(planted, local, task, coins)
    # Gradients are positive, and steps go against them.
    return audit(-update.delta.whole(), included, guesses, guesses, wish.delta, CONFIDENCE)
