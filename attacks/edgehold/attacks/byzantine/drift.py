"""Drift in a consensus, against noise-robust ADMM: honest messages with something added that hides in the noise of the link.

Zero-mean noise averages out, a lie that always points one way does not. The forms that hold their data in their start ("rerce",
"continual", "dual") add up what is wrong in every mean: the same small lie again and again moves the solution by
rho f (sum A)^-1 b a round, for f liars that add b. "anchored" forgives a lie that stays the same (it costs that shift once), so
there it grows by b a round: each message differs from the last one by no more than noise would.

Knowledge K0: the liars agreed on a secret, and see what every device is sent. Where the consensus gives way is learned from
that alone: it moves by (sum A)^-1 times the lie, so that lying along its last move is a power iteration towards the direction
in which the data say least. Source: ours, from the invariant that the card of the method derives.
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.drift:make", options = {strength = 1.0}.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from typing import Any

import numpy as np

from edgehold.attacks.byzantine import payload
from edgehold.attacks.byzantine.knowledge import K0
from edgehold.attacks.byzantine.wrap import Memory
from edgehold.core.contract import Adversary
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.defenses.noise_robust_admm.link import sent
from edgehold.defenses.noise_robust_admm.state import Doubles, Order, Update

ROUNDS, AIM, ADDED, SEEN = "rounds", "aim", "added", "consensus"
GROWS = ("anchored",)
"""Forms in which a lie that stays the same is forgiven."""


@dataclass(frozen=True)
class Drift:
    """strength: deviation of the lie's numbers (its growth, in "anchored") in deviations of the link's noise; step: the same
    as a number of its own; 0: strength is taken. secret: what the liars agreed on; the first direction follows from it.
    every: rounds between looks at where the consensus went; 0: the first direction is kept.
    reach: largest Euclidean length of what is added; 0: none, and the server's `norm_limit` refuses it some day.
    """

    strength: float = 1.0
    step: float = 0.0
    secret: int = 0
    every: int = 25
    reach: float = 0.0
    needs = K0

    def __post_init__(self) -> None:
        for name, value in (("strength", self.strength), ("step", self.step), ("reach", self.reach)):
            if not (value >= 0 and isfinite(value)):
                raise ConfigError(f"{name} = {value}; it must be finite and not below 0")
        if not (self.strength or self.step):
            raise ConfigError("strength = 0 and step = 0: nothing would be added; set one of them")
        if self.every < 0:
            raise ConfigError(f"every = {self.every}; rounds, or 0 for never")

    def tell(self, order: Order, own: Any, known: Sequence[Any], clients: int, memory: Memory) -> Any:
        """The honest message and the lie, in the numbers of the wire."""
        payload.of_kind(own, Update, "messages of a consensus", "noise_robust_admm")
        how, honest = order.training, own.u.whole().astype(np.float64)
        size = self.step or self.strength * how.noise_up
        if not size:
            raise ConfigError("this run's links are free of noise to hide in; give the lie's size itself with step")
        added = self._added(order, size, len(honest), memory)
        # Rounding at random is drawn from the secret: it is no part of the attack.
        chance = stream(self.secret, "drift", "wire", order.round)
        return replace(own, u=sent(honest + added, 0.0, how.wire, chance))

    def _added(self, order: Order, size: float, n: int, memory: Memory) -> Doubles:
        consensus = order.p.whole()[:n].astype(np.float64)
        rounds = int(memory[ROUNDS][0]) if ROUNDS in memory else 0
        if not rounds:
            memory[AIM], memory[SEEN] = directed(stream(self.secret, "drift").standard_normal(n)), consensus
            memory[ADDED] = np.zeros(n)
        elif self.every and rounds % self.every == 0:
            moved = consensus - memory[SEEN]
            if moved.any():
                memory[AIM] = directed(moved)
            memory[SEEN] = consensus
        memory[ROUNDS] = np.array([rounds + 1])
        before = memory[ADDED] if order.training.form in GROWS else np.zeros(n)
        added = np.asarray(before + size * memory[AIM])
        length = float(np.linalg.norm(added))
        if self.reach and length > self.reach:
            added *= self.reach / length
        memory[ADDED] = added
        return added


def directed(values: Doubles) -> Doubles:
    """The same direction with a mean square of 1."""
    return np.asarray(values * (sqrt(len(values)) / float(np.linalg.norm(values))))


def make(strength: float = 1.0, step: float = 0.0, secret: int = 0, every: int = 25, reach: float = 0.0) -> Adversary:
    """`Drift` on a device. Colluders are devices with the same options; they need no folder."""
    return payload.adversary(Drift(strength, step, secret, every, reach), 1)
