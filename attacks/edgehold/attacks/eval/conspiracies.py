"""Conspiracies on other payloads than changes of the model: rankings and sign bits. Those on changes are
`byzantine.plot.Plot`s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgehold.attacks.byzantine import ranks, signs
from edgehold.server.engine import View


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
