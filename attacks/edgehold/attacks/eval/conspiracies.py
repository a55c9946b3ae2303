"""Conspiracies on other payloads than changes of the model: rankings, sign bits, and whatever a `PayloadAttack` changes. Those
on changes are `byzantine.plot.Plot`s. And lies in masked sums of votes, where only the sum has to be lawful.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgehold.attacks.byzantine import ranks, signs
from edgehold.attacks.byzantine.knowledge import Knowledge, Reach
from edgehold.attacks.byzantine.payload import PayloadAttack
from edgehold.attacks.byzantine.wrap import Memory
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


class _Minds:
    """What each member remembers; without a readable form on purpose, as in `plot`."""

    def __init__(self) -> None:
        self.of: dict[str, Memory] = {}


@dataclass(frozen=True)
class PayloadPlot:
    """Clients `members` play `attack` together. granted: what they know; `NotGranted` for one that needs more."""

    members: frozenset[str]
    attack: PayloadAttack
    granted: Knowledge
    _minds: _Minds = field(default_factory=_Minds, init=False, compare=False)

    def __post_init__(self) -> None:
        self.granted.grant(self.attack.needs, f"attack {type(self.attack).__name__}")

    def lie(self, view: View) -> Mapping[str, Any]:
        """What each member sends; see `Conspiracy`."""
        known, clients = list(view.own.values()), len(view.own) + len(view.honest)
        if self.attack.needs.reach == Reach.OWN:
            return {one: self._tell(view, one, [update], clients) for one, update in view.own.items()}
        return {one: self._tell(view, one, known, clients) for one in view.own}

    def _tell(self, view: View, client: str, known: Sequence[Any], clients: int) -> Any:
        return self.attack.tell(view.order, view.own[client], known, clients, self._minds.of.setdefault(client, {}))


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
