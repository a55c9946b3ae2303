"""What an attack on changes of the model is given, and what it gives back: the same in the engine and on a device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgehold.attacks.byzantine.knowledge import Knowledge
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array, FloatArray, blocks

if TYPE_CHECKING:
    from edgehold.attacks.byzantine.rule import ServerRule

Lies = Mapping[str, Array]
"""What each liar sends, (d,) by client id; who is left out sends the truth."""
Outcome = Callable[[Lies], Array]
"""How far the model would move, (d,) float64, if the liars sent these."""


@dataclass(frozen=True)
class Sight:
    """A round as liars see it.

    own: the liars' honest changes, (d,) float32, by client id in ascending order (on a device that tells nobody: its own);
        others: everybody else's, empty where that is not granted.
    model: (d,) float32, the global model before the round; None for methods whose updates are no changes of one.
    clients, liars: in the round, as far as the liars know.
    memory: what the attack wrote here in earlier rounds; it may write. `LAST` is the seam's.
    rule: the server's rule; outcome: the server itself, to ask; both None where the rule is not granted.
    """

    own: Mapping[str, FloatArray]
    others: Mapping[str, FloatArray]
    model: FloatArray | None
    clients: int
    liars: int
    rng: np.random.Generator
    memory: dict[str, Array] = field(default_factory=dict)
    rule: "ServerRule | None" = None
    outcome: Outcome | None = None

    @property
    def known(self) -> Mapping[str, FloatArray]:
        """Honest changes that stand for what honest clients send: everybody else's, or the liars' own where hidden."""
        return self.others or self.own

    @property
    def size(self) -> int:
        """d."""
        return len(next(iter(self.own.values())))

    def everyone(self, lie: Array) -> Lies:
        """The same lie from all."""
        return dict.fromkeys(self.own, lie)


class Attack(Protocol):
    """A lie about changes of the model."""

    @property
    def needs(self) -> Knowledge:
        """The least it can be played with."""

    @property
    def fewest(self) -> int:
        """Honest changes that it must know, at least; with fewer the liars send the truth."""

    @property
    def remembers(self) -> bool:
        """Whether it writes to the memory."""

    def lie(self, sight: Sight) -> Lies:
        """What the liars send. May be given more than it needs."""


class Forgetful:
    """Defaults of an attack: each round by itself, from one known change on."""

    @property
    def fewest(self) -> int:
        """See `Attack`."""
        return 1

    @property
    def remembers(self) -> bool:
        """See `Attack`."""
        return False


LAST = "last model"
"""Where the seam keeps the model that the liars saw last, for attacks and rules that remember."""


def last_step(sight: Sight) -> Array | None:
    """(d,) float64: what the global model did since the liars saw it last; None where they never did.

    With every client in every round, no server momentum and learning rate 1 this is the rule's last result. `ConfigError` where
    there is no global model to follow.
    """
    if sight.model is None:
        raise ConfigError("this attack follows the global model, which this method's orders do not carry; choose another")
    if LAST not in sight.memory:
        return None
    return sight.model.astype(np.float64) - sight.memory[LAST]


def mean(changes: Mapping[str, FloatArray]) -> Array:
    """(d,) float64."""
    return moments(changes)[0]


def moments(changes: Mapping[str, FloatArray]) -> tuple[Array, Array]:
    """Mean and standard deviation (divided by their number - 1; zeros for a single one) of each coordinate, (d,) float64."""
    rows = list(changes.values())
    middle, spread = np.empty(len(rows[0])), np.zeros(len(rows[0]))
    for start, stop in blocks(len(middle), _SPAN):
        values = np.array([row[start:stop] for row in rows], dtype=np.float64)
        middle[start:stop] = values.mean(axis=0)
        if len(rows) > 1:
            spread[start:stop] = values.std(axis=0, ddof=1)
    return middle, spread


_SPAN = 1 << 14  # columns at a time: with 20 rows of float64 they stay in the second-level cache
