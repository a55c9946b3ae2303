"""What a device must remember of the sums it helped to unmask, durably, before its answer leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Revealed:
    """That this device answered one set of survivors."""

    federation: str
    run: str
    round: int
    attempt: int
    transcript: bytes
    set_digest: bytes


class RevealJournal(Protocol):
    """The device's own record. Its keep holds it; a list serves tests."""

    def revealed(self, federation: str, run: str, round_: int) -> Sequence[Revealed]:
        """All that was written for a round, in any attempt."""

    def write(self, revealed: Revealed) -> None:
        """Durable once this returns; `JournalError` where it cannot be, and nothing is revealed then."""
