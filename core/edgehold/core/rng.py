"""Named random streams of one seed: the same names always give the same numbers, on every machine.

For shuffles, initial weights and simulated choices. Never for keys, tokens, nonces, masks or privacy noise: those come
from the operating system.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


class _Key(ISeedSequence):
    """Gives Philox its key as `Philox(key=...)` would, without the operating system's entropy that numpy then draws and throws
    away: three quarters of the time that a stream takes.
    """

    __slots__ = ("_key",)

    def __init__(self, key: Any) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        """The key, which is what Philox asks for."""
        assert (n_words, np.dtype(dtype)) == (2, np.dtype(np.uint64)), "only Philox's key can be asked for"
        return self._key


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Generator of the stream called `names` under `seed`; distinct names give independent streams."""
    digest = hashlib.sha256()
    for part in (seed, *names):
        label = f"{type(part).__name__}:{part}".encode()
        digest.update(len(label).to_bytes(4, "little") + label)
    key: Any = _Key(np.frombuffer(digest.digest()[:16], dtype="<u8").astype(np.uint64))
    return np.random.Generator(np.random.Philox(key))
