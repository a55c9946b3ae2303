"""A folder that colluders share behind the server's back: each one's honest update of the round, for the others to know.

Knowledge K1: the colluders know each other's honest updates and nothing else.
"""

import hashlib
import os
import time
from pathlib import Path

import numpy as np

from edgehold.core.vectors import FloatArray, Vector, blocks

_KEY = 32
_POLL_S = 0.02


class Channel:
    """One file per colluder: a key that names the round's model, then its honest update."""

    def __init__(self, folder: Path, colluders: int, wait_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._colluders, self._wait_s = folder, colluders, wait_s

    def share(self, client: str, key: bytes, delta: FloatArray) -> dict[str, FloatArray]:
        """Own update and what the others have, by client id, ascending; this round's where they come in time."""
        found = {one: np.frombuffer(data, dtype="<f4") for one, data in self._share(client, key, delta.tobytes()).items()}
        return {one: update for one, update in found.items() if len(update) == len(delta)}

    def share_bytes(self, client: str, key: bytes, data: bytes) -> list[bytes]:
        """As `share`, for updates of any kind. key: 32 bytes that name the round."""
        return list(self._share(client, key, data).values())

    def _share(self, client: str, key: bytes, data: bytes) -> dict[str, bytes]:
        mine = self._folder / f"{client}.update"
        draft = mine.with_suffix(".draft")
        draft.write_bytes(key + data)
        os.replace(draft, mine)  # nobody ever reads half a file
        deadline = time.monotonic() + self._wait_s
        while True:
            found = {path.name.removesuffix(".update"): path.read_bytes() for path in sorted(self._folder.glob("*.update"))}
            fresh = sum(one[:_KEY] == key for one in found.values())
            if fresh >= self._colluders or time.monotonic() >= deadline:
                break
            time.sleep(_POLL_S)
        return {one: sent[_KEY:] for one, sent in found.items()}


def round_key(model: Vector) -> bytes:
    """What tells one round's updates from another's: the digest of the model they start from."""
    digest = hashlib.sha256()
    for start, stop in blocks(model.size):
        digest.update(np.ascontiguousarray(model.read(start, stop)).data)
    return digest.digest()
