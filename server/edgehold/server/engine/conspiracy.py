"""The seam for attackers who know more than a device can: every honest update of the round, and the server's rule.

Such an attacker acts after the honest updates are made and before the server folds anything. It lives in the one process
that plays the run; over the network nobody has this knowledge (levels K2 and +A). Attackers that a real device could be are
`Adversary`s (`edgehold.core.contract`) and work here and there alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgehold.core.vectors import Vector


@dataclass(frozen=True)
class View:
    """What the conspirators see of a round.

    order: the round's order, decoded; model: the global model before the round.
    honest: admitted updates of everybody else, by client id in ascending order; own: the members' honest updates.
    outcome: the model the server would have after the round if the members sent these updates; changes nothing.
        `RejectedUpdate` when one of them would be refused.
    rng: randomness of the conspiracy in this round.
    """

    round: int
    order: Any
    model: Vector
    honest: Mapping[str, Any]
    own: Mapping[str, Any]
    outcome: Callable[[Mapping[str, Any]], Vector]
    rng: np.random.Generator


class Conspiracy(Protocol):
    """Clients that lie together, knowing everything."""

    @property
    def members(self) -> frozenset[str]:
        """Client ids of the liars."""

    def lie(self, view: View) -> Mapping[str, Any]:
        """What each member of the round (`view.own`) sends instead. A member left out sends its honest update."""
