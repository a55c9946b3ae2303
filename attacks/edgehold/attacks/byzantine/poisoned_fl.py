"""PoisonedFL: the same hidden direction in every round, without knowing a single honest update.

A sign per coordinate is drawn once. What averages and filters leave of each round's push adds up over hundreds of rounds,
because it never cancels. Knowledge K0: liars agree on a secret beforehand and see the global model, as every client does.
Source: Xie, Fang, Gong 2025, arXiv:2404.15611, section 5.
"""

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from edgehold.attacks.byzantine.knowledge import K0
from edgehold.attacks.byzantine.sight import Lies, Sight, last_step
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import Array

SENT, FACTOR, SEEN, BEGUN = "sent", "factor", "seen", "begun"
CHANCE, SHRINK, FLOOR = 0.99, 0.7, 0.5
"""The test that the push shows in the model, and how its factor shrinks where it does not, down to the floor."""


@dataclass(frozen=True)
class PoisonedFl:
    """secret: what the liars agreed on; the signs follow from it. factor: c at the start. every: rounds between tests.

    In the first round that a liar sees there is no change of the model to go by: it sends its honest update.
    """

    secret: int = 0
    factor: float = 8.0
    every: int = 50
    needs = K0
    fewest = 1
    remembers = True

    def __post_init__(self) -> None:
        if not (self.factor > 0 and isfinite(self.factor)):
            raise ConfigError(f"factor = {self.factor}; it must be finite and above 0")
        if self.every < 1:
            raise ConfigError(f"every = {self.every}; at least 1 round")

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        memory, step = sight.memory, last_step(sight)
        assert sight.model is not None, "last_step has looked"
        if step is None:
            memory[BEGUN], memory[SEEN], memory[FACTOR] = sight.model, np.zeros(1), np.array([self.factor])
            return {}
        signs = signs_of(self.secret, len(step))
        memory[SEEN] = memory[SEEN] + 1
        if int(memory[SEEN][0]) % self.every == 0:
            moved = sight.model.astype(np.float64) - memory[BEGUN]
            if not shows(moved, signs) and SHRINK * memory[FACTOR][0] >= FLOOR:
                memory[FACTOR] = SHRINK * memory[FACTOR]
            memory[BEGUN] = sight.model
        lie = pushed(step, memory.get(SENT), signs, float(memory[FACTOR][0]))
        memory[SENT] = lie
        return sight.everyone(lie)


def signs_of(secret: int, size: int) -> NDArray[np.int8]:
    """(size,) of -1 and 1."""
    return (2 * stream(secret, "poisoned_fl").integers(0, 2, size, dtype=np.int8) - 1).astype(np.int8)


def pushed(step: Array, sent: Array | None, signs: Array, factor: float) -> Array:
    """factor * |step| times the signs, most where the last step is not what the last lie explains.

    step: (d,) the model's last change; sent: (d,) the last lie, None at first. Weights v = |step - sent |step| / |sent||,
    scaled to length 1. Where the step is all lie, even weights.
    """
    size = float(np.linalg.norm(step))
    before = 0.0 if sent is None else float(np.linalg.norm(sent))
    rest = step if sent is None or before == 0.0 else step - sent * (size / before)
    weights = np.abs(rest)
    total = float(np.linalg.norm(weights))
    weights = weights / total if total else np.full(len(step), len(step) ** -0.5)
    return np.asarray(factor * size * weights * signs)


def shows(moved: Array, signs: Array) -> bool:
    """Whether more coordinates moved along the signs than chance explains, at the 99 % point of Binomial(d, 1/2)."""
    from scipy.stats import binom  # a device that never comes so far needs no SciPy

    return bool(np.count_nonzero(np.sign(moved) == signs) >= binom.ppf(CHANCE, len(signs), 0.5))
