"""Stale replay: send an update of an earlier round again. Knowledge K0.

The message itself is fresh and lawful; only what is in it belongs to a model that is gone. (A resent message of an earlier
round is another matter: the server refuses it as stale.) Source: ours; the fault model of delayed updates as an attack.
"""

from dataclasses import dataclass

import numpy as np

from edgehold.attacks.byzantine.knowledge import K0
from edgehold.attacks.byzantine.sight import Lies, Sight
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import FloatArray


@dataclass(frozen=True)
class Replay:
    """age: how many of its rounds back the update is from; 0: always the first one. Until there is one, the oldest is sent.

    scale: multiplies it.
    """

    age: int = 0
    scale: float = 1.0
    needs = K0
    fewest = 1
    remembers = True

    def __post_init__(self) -> None:
        if self.age < 0:
            raise ConfigError(f"age = {self.age}; it must not be below 0")
        if not np.isfinite(self.scale):
            raise ConfigError(f"scale = {self.scale}; it must be finite")

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        return {client: self.scale * self._oldest(sight, client, change) for client, change in sight.own.items()}

    def _oldest(self, sight: Sight, client: str, change: FloatArray) -> FloatArray:
        before = sight.memory.get(client)
        if before is None:
            kept = change[None].copy()
        else:
            kept = np.vstack([before, change[None]])[-(self.age + 1) :] if self.age else before
        sight.memory[client] = kept
        oldest: FloatArray = kept[0]
        return oldest
