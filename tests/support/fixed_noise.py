"""Noise that can be drawn again, for tests alone: the product's sampler over the keystreams of a seed."""

import hashlib
from itertools import count

from edgehold.core.privacy.noise import KeyedNoise


class FixedNoise(KeyedNoise):
    """The same seed gives the same noise."""

    def __init__(self, seed: int) -> None:
        numbers = count()
        super().__init__(lambda: hashlib.sha256(f"noise {seed} {next(numbers)}".encode()).digest())
