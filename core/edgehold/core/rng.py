"""Named random streams of one seed: the same names always give the same numbers, on every machine.

For shuffles, initial weights and simulated choices. Never for keys, tokens, nonces, masks or privacy noise: those come
from the operating system.
"""

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Generator of the stream called `names` under `seed`; distinct names give independent streams."""
    digest = hashlib.sha256()
    for part in (seed, *names):
        label = f"{type(part).__name__}:{part}".encode()
        digest.update(len(label).to_bytes(4, "little") + label)
    key = np.frombuffer(digest.digest()[:16], dtype="<u8").astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
