"""Mimic: copy one honest client for good, the one whose data stand out, so that it counts f + 1 times. Meant for uneven data.

Knowledge K2. Nothing that is sent is a lie in itself: no rule that looks at one round can tell.
Source: Karimireddy et al. 2022, section 3.2 and appendix B.
"""

from dataclasses import dataclass

import numpy as np

from edgehold.attacks.byzantine.knowledge import K2
from edgehold.attacks.byzantine.sight import Lies, Sight, mean
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array

ROUNDS, ALONG, WHOM = "rounds", "along", "whom"


@dataclass(frozen=True)
class Mimic:
    """For `warm_up` rounds follows the direction in which honest updates spread most; from then on copies the client that lies
    farthest out along it, on the upper side or (`largest` False) the lower.

    Meanwhile it copies whoever is farthest out so far. warm_up = 0: copies the first client from the start. When the copied
    client takes no part in a round, the one farthest out of those that do.
    """

    warm_up: int = 10
    largest: bool = True
    needs = K2
    fewest = 1
    remembers = True

    def __post_init__(self) -> None:
        if self.warm_up < 0:
            raise ConfigError(f"warm_up = {self.warm_up}; it must not be below 0")

    def lie(self, sight: Sight) -> Lies:
        """See the class."""
        clients, memory = list(sight.known), sight.memory
        if self.warm_up == 0:
            return sight.everyone(sight.known[clients[0]])
        middle = mean(sight.known)
        along = memory.get(ALONG)
        seen = int(memory.get(ROUNDS, np.zeros(1))[0])
        if seen < self.warm_up:
            along = turned(sight, middle, sight.rng.standard_normal(len(middle)) if along is None else along)
            memory[ALONG], memory[ROUNDS] = along, np.array([seen + 1])
        assert along is not None, "the warm-up has had at least one round"
        if seen >= self.warm_up and WHOM in memory and (kept := str(memory[WHOM][0])) in sight.known:
            return sight.everyone(sight.known[kept])
        places = [float((sight.known[client] - middle) @ along) for client in clients]
        whom = clients[int(np.argmax(places) if self.largest else np.argmin(places))]
        if seen >= self.warm_up and WHOM not in memory:
            memory[WHOM] = np.array([whom])
        return sight.everyone(sight.known[whom])


def turned(sight: Sight, middle: Array, along: Array) -> Array:
    """One power step on the covariance of the known updates, (d,) float64 of length 1; as it was where they do not spread."""
    out = np.zeros(len(along))
    for change in sight.known.values():
        away = change - middle
        out += (away @ along) * away
    size = float(np.linalg.norm(out))
    return out / size if size else along / (float(np.linalg.norm(along)) or 1.0)
