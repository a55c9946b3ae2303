"""When a round may close: pure counting, no clock, no network.

A round moves through planned, open, closing, committed; or abandoned from anywhere before its commit. Each move is in the
journal before anything is sent (`edgehold.server.rounds.runs`).
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil


class RoundState(StrEnum):
    """Where a round stands."""

    PLANNED = "planned"
    OPEN = "open"
    CLOSING = "closing"
    COMMITTED = "committed"
    ABANDONED = "abandoned"


class Verdict(StrEnum):
    """What to do with an open round now."""

    WAIT = "wait"
    CLOSE = "close"
    ABANDON = "abandon"


@dataclass(slots=True)
class Tally:
    """Who was asked and who answered. size: updates that close the round; quorum: fewest that may; reasons: why lost clients
    declined.
    """

    selected: frozenset[str]
    size: int
    quorum: int
    admitted: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)

    def admit(self, client: str) -> None:
        """An update of a selected client was admitted."""
        if client in self.selected:
            self.admitted.add(client)
            self.lost.discard(client)

    def lose(self, client: str, why: str = "") -> None:
        """A selected client declined, was refused, or is gone: do not wait for it."""
        if client in self.selected and client not in self.admitted:
            self.lost.add(client)
            if why:
                self.reasons[client] = why

    def drop(self, client: str) -> None:
        """A selected client is shut out: what it sent before does not count either."""
        self.admitted.discard(client)
        self.lose(client)

    def told(self, most: int = 3) -> str:
        """The commonest reasons for which clients declined, with how many gave each; "" when none did."""
        counts = Counter(self.reasons.values()).most_common()
        said = "; ".join(f"{count} declined: {why}" for why, count in counts[:most])
        return said + (f"; and {len(counts) - most} other reasons" if len(counts) > most else "")

    @property
    def pending(self) -> frozenset[str]:
        """Clients that may still answer."""
        return self.selected - self.admitted - self.lost

    def decide(self, deadline_passed: bool) -> Verdict:
        """Close when enough or all that can come have come; abandon when the quorum is out of reach."""
        have, waiting = len(self.admitted), len(self.pending)
        if have >= self.size or (have >= self.quorum and (deadline_passed or not waiting)):
            return Verdict.CLOSE
        if deadline_passed or have + waiting < self.quorum:
            return Verdict.ABANDON
        return Verdict.WAIT


def wanted(size: int, over_select: float) -> int:
    """Clients to ask for `size` updates; over_select 1.3 asks 30 % more, because some always fail."""
    return ceil(round(size * over_select, 9))
