"""Noise that can be drawn again, for tests alone: the product's sampler over the keystreams of a seed."""

import hashlib
from itertools import count
from typing import Any

import numpy as np

from edgehold.core.privacy.noise import KeyedNoise
from edgehold.core.privacy.sampling import Words
from edgehold.core.vectors import Array
from edgehold.defenses.dp_ef_sgd.client import DpEfSgdClient


class FixedNoise(KeyedNoise):
    """The same seed gives the same noise."""

    def __init__(self, seed: int) -> None:
        numbers = count()
        super().__init__(lambda: hashlib.sha256(f"noise {seed} {next(numbers)}".encode()).digest())


def fixed_words(seed: int) -> Words:
    """Words that can be drawn again, for who is in which batch."""
    chance = np.random.Generator(np.random.Philox(seed))
    return lambda count: chance.integers(1 << 64, size=count, dtype=np.uint64)


class Silence:
    """No noise at all: what a sum is without it. A planted bug wherever privacy is judged."""

    def draw(self, count: int) -> Array:
        """Zeros."""
        return np.zeros(count, dtype=np.int64)


def half(seed: int = 1) -> DpEfSgdClient:
    """The device half of DP-EF SGD whose noise and batches can be drawn again."""
    return DpEfSgdClient(FixedNoise(seed), fixed_words(seed))


class Repeating:
    """The half as an adversary's: draws depend on client and model alone, so that a round done again repeats its numbers."""

    def __init__(self, honest: Any, client: str) -> None:
        self._honest, self._client = honest, client

    def work(self, order: Any, local: Any, task: Any, rng: Any) -> Any:
        """The round, by a half of its own."""
        digest = hashlib.sha256(self._client.encode() + order.model.whole().tobytes()).digest()
        return half(int.from_bytes(digest[:4], "little")).work(order, local, task, rng)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)


def make() -> Any:
    """As `[adversary]` of a device, for runs that are compared bit for bit."""
    return Repeating
