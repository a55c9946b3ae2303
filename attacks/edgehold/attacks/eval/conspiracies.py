"""Conspiracies on other payloads than changes of the model: rankings and sign bits. Those on changes are
`byzantine.plot.Plot`s. And lies in masked sums of votes, where only the sum has to be lawful.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgehold.attacks.byzantine import ranks, signs
from edgehold.core.vectors import Array
from edgehold.defenses.frl.sorting import inverse, sorted_places
from edgehold.server.engine import GroupView, View


@dataclass(frozen=True)
class Ranks:
    """FRL: the lie on rankings that `lie_name` names in `edgehold.attacks.byzantine.ranks` (K1: only the members' own honest
    rankings are used). cap: see there. minority: where half or more of a round's voters are members, just fewer than half of
    the votes are lies and the other members vote honestly: as near as a conspiracy comes to drawing such rounds again.
    """

    members: frozenset[str]
    lie_name: str
    cap: int | None = None
    minority: bool = False

    def lie(self, view: View) -> Mapping[str, Any]:
        """See the class."""
        known = [update.ranks for update in view.own.values()]
        liars = list(view.own.items())
        if self.minority:
            liars = liars[: (len(view.honest) + len(view.own) - 1) // 2]
        votes, keep = len(view.honest) + len(view.own), view.order.training.keep
        return {
            client: replace(update, ranks=ranks.forge(self.lie_name, update.ranks, known, votes, keep, self.cap))
            for client, update in liars
        }


@dataclass(frozen=True)
class Signs:
    """HideNseek: the lie on sign bits that `lie_name` names in `edgehold.attacks.byzantine.signs` (K1: only the members' own
    honest bits are used).
    """

    members: frozenset[str]
    lie_name: str

    def lie(self, view: View) -> Mapping[str, Any]:
        """See the class."""
        kept = int(view.order.mask.sum())
        own = {client: signs.bits_of(update, kept) for client, update in view.own.items()}
        known = list(own.values())
        return {client: signs.forged(signs.LIES[self.lie_name](bits, known)) for client, bits in own.items()}


@dataclass(frozen=True)
class Swing:
    """Masked votes: one member of a group is enough to turn all of it. The group's sum becomes what it would be if every device
    in it voted as the liars wish. The law of the sum holds; to hit it, the liars must know the honest members' sum, which
    nobody on a network does: the strongest case.

    edges: of every layer, for rankings; empty for sign bits, of which all go against what the honest ones voted together.
    Rankings stand still, edges by their ids, in every round: nothing is learnt. turn: they are the honest ones upside down
    instead, which does less: two networks, each the other's complement, then learn in turns.
    """

    members: frozenset[str]
    edges: tuple[int, ...] = ()
    turn: bool = False

    def put(self, view: GroupView) -> Array:
        """See the class."""
        everybody = len(view.clients)
        if not self.edges:
            # An even vote counts as the weight's own sign, as on the server.
            wanted: Array = np.where(2 * view.honest < everybody - len(view.liars), everybody, 0)
            return wanted - view.honest
        ranked = [np.arange(edges, dtype=np.int64) for edges in self.edges]
        if self.turn:
            layers = np.split(view.honest, np.cumsum(self.edges)[:-1])
            ranked = [len(layer) - 1 - inverse(sorted_places(layer)).astype(np.int64) for layer in layers]
        return np.asarray(everybody * np.concatenate(ranked) - view.honest)
