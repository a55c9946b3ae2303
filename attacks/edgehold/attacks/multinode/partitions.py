"""Cutting devices off while a run goes on, as testbed.toml says: from the beginning of a round, for so many seconds."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from edgehold.attacks.multinode.backend import Backend
from edgehold.attacks.multinode.config import Testbed


@dataclass
class Partitions:
    """One run's cuts. done: what was really cut, as (round, client, seconds).

    A round begins when the one before it is committed, which is when we are told; its tasks are then on their way, and over a
    link with a delay they have not arrived yet.
    """

    bed: Testbed
    backend: Backend
    done: list[tuple[int, str, float]] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)
    _off: dict[str, threading.Timer] = field(default_factory=dict)
    _told: int = 0

    def begin(self, number: int, rounds: int) -> None:
        """A round begins; told twice, it is cut once."""
        if not self._told < number <= rounds:
            return
        self._told = number
        for client, seconds in self.bed.cuts(number).items():
            if (before := self._off.pop(client, None)) is not None:
                before.cancel()
            else:
                self.backend.cut(client)
            self.done.append((number, client, seconds))
            self._off[client] = _after(seconds, partial(self._heal, client))

    def end(self) -> None:
        """Put back whoever is off still; raises what went wrong meanwhile."""
        for client, timer in list(self._off.items()):
            timer.cancel()
            timer.join()
            if client in self._off:
                self._heal(client)
        if self.failed:
            raise self.failed[0]

    def as_list(self) -> list[Mapping[str, object]]:
        """For the report."""
        return [{"round": number, "client": client, "seconds": seconds} for number, client, seconds in self.done]

    def _heal(self, client: str) -> None:
        try:
            self.backend.heal(client)
        except Exception as error:  # in a thread of its own: told at the end
            self.failed.append(error)
        finally:
            self._off.pop(client, None)


def _after(seconds: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer
