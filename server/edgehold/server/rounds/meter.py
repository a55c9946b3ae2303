"""What the steps of a masked sum cost the server: bytes on the wire, processor time."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from edgehold.core.contract import Facts

Part: TypeAlias = Literal["keys", "shares", "reveals", "sums"]


@dataclass(slots=True)
class Meter:
    """Of one round."""

    _bytes: Counter[Part] = field(default_factory=Counter)
    _seconds: dict[Part, float] = field(default_factory=dict)

    def moved(self, part: Part, size: int) -> None:
        """A message came or went."""
        self._bytes[part] += size

    @contextlib.contextmanager
    def working(self, part: Part) -> Iterator[None]:
        """Around work that this thread does in one go."""
        before = time.thread_time()
        try:
            yield
        finally:
            self._seconds[part] = self._seconds.get(part, 0.0) + time.thread_time() - before

    def facts(self) -> Facts:
        """Under the names of `edgehold.core.facts`."""
        moved = {f"mask_{part}_bytes": float(self._bytes[part]) for part in ("keys", "shares", "reveals")}
        return moved | {f"mask_{part}_cpu_seconds": self._seconds.get(part, 0.0) for part in PARTS}


PARTS: tuple[Part, ...] = ("keys", "shares", "reveals", "sums")
