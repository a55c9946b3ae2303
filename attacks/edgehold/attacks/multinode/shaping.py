"""What a link does to packets: delay, jitter, loss, rate, cut. Pure: times come in, times go out."""

import random
from collections import deque
from dataclasses import dataclass, field

from edgehold.attacks.multinode.config import Link

MOST_HELD = 10_000
"""Packets on their way over one link; what comes on top is lost."""


@dataclass
class Direction:
    """One direction of one link. free_s: when its sender's bits are through; last_s: when the last packet arrives."""

    link: Link = field(default_factory=Link)
    cut: bool = False
    free_s: float = 0.0
    last_s: float = 0.0
    due: deque[float] = field(default_factory=deque)

    def arrival(self, size: int, now: float, rng: random.Random) -> float | None:
        """When a packet of `size` bytes that was sent at `now` arrives, seconds; None: it never does."""
        link = self.link
        if self.cut or (link.loss_percent and rng.random() * 100.0 < link.loss_percent):
            return None
        while self.due and self.due[0] <= now:
            self.due.popleft()
        if len(self.due) >= MOST_HELD:
            return None
        when = now
        if link.rate_mbit:
            when = self.free_s = max(now, self.free_s) + size * 8 / (link.rate_mbit * 1e6)
        jitter = rng.uniform(-link.jitter_ms, link.jitter_ms) if link.jitter_ms else 0.0
        # Jitter never lets a packet overtake another, nor arrive before it was sent.
        when = self.last_s = max(when + max(0.0, link.delay_ms + jitter) / 1e3, self.last_s, now)
        self.due.append(when)
        return when
