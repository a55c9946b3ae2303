"""Noise for differential privacy: independent values of the rounded Gaussian (`rounded`), from bits nobody can repeat.

Noise that can be drawn again can be taken off again: there is no seed here. Keys come from the operating system and are never
shown, kept or given; a source made for tests stands with the tests.
"""

import os
from collections.abc import Callable
from threading import Lock
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from edgehold.core.privacy import rounded
from edgehold.core.privacy.events import Sampler
from edgehold.core.vectors import Array

_BLOCK = 1 << 20
"""Bytes of keystream made at a time."""
_PER_KEY = 1 << 30
"""Bytes after which another key is taken, long before the counter of ChaCha20 comes round."""


class Noise(Protocol):
    """A source of noise on the integers, of standard deviation `rounded.DEVIATION` = 2^32."""

    def draw(self, count: int) -> Array:
        """(count,) int64, independent of each other and of all drawn before. `ValueError` for a count below 0."""


class KeyedNoise:
    """Noise from the ChaCha20 streams of 32-byte keys. new_key: asked at once, after each GiB, and after a fork.

    Of use in tests alone; the product draws from `SystemNoise`. May be shared between threads, and is never copied.
    """

    def __init__(self, new_key: Callable[[], bytes]) -> None:
        self._new_key = new_key
        self._lock = Lock()
        self._process = os.getpid()
        self._begin()

    def _begin(self) -> None:
        key = self._new_key()
        # Two streams of one key: open attempts are rare, and theirs must not shift the places of the others.
        self._stream, self._further = (
            Cipher(algorithms.ChaCha20(key, bytes(8) + number.to_bytes(8, "little")), None).encryptor() for number in (0, 1)
        )
        self._left = _PER_KEY
        self._attempts = np.empty(0, rounded.ATTEMPT)

    def draw(self, count: int) -> Array:
        """(count,) int64."""
        if count < 0:
            raise ValueError(f"{count} draws; at least 0")
        out, filled = np.empty(count, np.int64), 0
        with self._lock:
            if self._process != os.getpid():  # two processes of one key would draw the same noise
                self._process = os.getpid()
                self._begin()
            while filled < count:
                if not len(self._attempts):
                    self._attempts = self._block()
                used, made, is_open = rounded.made(self._attempts, out[filled:])
                filled += made
                if is_open:
                    value = rounded.settled(self._attempts[used], lambda size: self._further.update(bytes(size)))
                    used += 1
                    if value is not None:
                        out[filled] = value
                        filled += 1
                self._attempts = self._attempts[used:]
        return out

    def _block(self) -> Array:
        if not self._left:
            self._begin()
        self._left -= _BLOCK
        return np.frombuffer(self._stream.update(_ZEROS), rounded.ATTEMPT)

    def __reduce__(self) -> str:
        raise TypeError("a source of noise is not copied: the copy would draw the same noise again; make another")


_ZEROS = bytes(_BLOCK)


class SystemNoise(KeyedNoise):
    """The operating system's: a key of its own for each object and each process."""

    def __init__(self) -> None:
        super().__init__(lambda: os.urandom(32))


def gap(count: int) -> Sampler:
    """How far the joint law P of `count` draws is from the rounded Gaussian's Q, if keystreams are as good as random bits: for
    every set S of outcomes P(S) <= e^ratio Q(S) + distance, and the same with P and Q exchanged.

    Distance, for one draw. Beyond 13 deviations nothing is drawn: 2 Phi(-13) < 2^-125. The chance of each of the 208 cells is
    within 2^-128, so that the law of (cell, place) is at most 208 / 2 * 2^-128 = 0.82 * 2^-121 away in total variation; keeping
    what is accepted, event A, divides that by its chance, above 0.97: TV(P|A, Q|A) <= TV(P, Q) / max(P(A), Q(A)). Together
    below 2^-120.

    Ratio, for one draw. Open attempts are settled with `rounded.accepted_below`: rounded down to 2^-159 where chances are above
    0.44, with 70 digits, and a series whose relative error is below 15 / 2^128 < 2^-124: each chance is within a factor of
    e^(2^-123), and keeping what is accepted doubles the exponent: 2^-122. All other attempts are decided as those would be,
    because the error of their floating-point chance is within the margin that leaves an attempt open.

    Over independent draws both add up; the sums here leave a factor of two and more for e^ratio.
    """
    if count < 0:
        raise ValueError(f"{count} draws; at least 0")
    return Sampler(ratio=count * 2.0**-121, distance=count * 2.0**-119)
