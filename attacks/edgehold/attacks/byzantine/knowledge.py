"""What liars know of a round. An attack declares what it needs, whoever plays it declares what it grants.

K0: a liar's own honest update. K1: those of all liars. K2: every honest update of the round. +A: the server's rule as well.
Source: the levels in which Shejwalkar and Houmansadr 2021, section III, and Fang et al. 2020, section 2, speak of attackers.
"""

from dataclasses import dataclass
from enum import IntEnum

from edgehold.core.errors import NotGranted


class Reach(IntEnum):
    """Whose honest updates are known."""

    OWN = 0
    LIARS = 1
    ROUND = 2


_WHOSE = {Reach.OWN: "a liar's own update", Reach.LIARS: "the liars' updates", Reach.ROUND: "all updates of the round"}


@dataclass(frozen=True, order=True, slots=True)
class Knowledge:
    """rule: whether the server's rule is known, too."""

    reach: Reach = Reach.OWN
    rule: bool = False

    def __str__(self) -> str:
        return f"K{self.reach.value}{'+A' if self.rule else ''}"

    @property
    def words(self) -> str:
        """In words."""
        return _WHOSE[self.reach] + (" and the server's rule" if self.rule else "")

    def grant(self, needs: "Knowledge", what: str) -> None:
        """`NotGranted` when `what` needs more than this."""
        if needs.reach > self.reach or needs.rule > self.rule:
            raise NotGranted(
                f"{what} needs {needs} ({needs.words}), granted is {self} ({self.words}); "
                "grant it, or take an attack that needs less",
                field="knowledge",
            )


K0, K1, K2 = (Knowledge(reach) for reach in Reach)
K1_RULE, K2_RULE = Knowledge(Reach.LIARS, True), Knowledge(Reach.ROUND, True)
