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


def make(seed: int = 1) -> Any:
    """As `[adversary]` of a device: its private half with repeatable draws, for runs that are compared bit for bit."""
    return lambda honest, client: half(seed + int.from_bytes(hashlib.sha256(client.encode()).digest()[:4], "little"))
