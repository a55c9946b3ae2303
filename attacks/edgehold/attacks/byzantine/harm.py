"""How much harm lies do to a server whose rule is known (+A): distance of its result from the honest mean, |A - mu|."""

from typing import Protocol

import numpy as np

from edgehold.attacks.byzantine.sight import Lies, Outcome, Sight, mean
from edgehold.core.errors import NotGranted
from edgehold.core.vectors import Array


class Along(Protocol):
    """Lies base + tau * push, the same from everyone."""

    @property
    def sampled(self) -> bool:
        """Whether `score` is an estimate."""

    def score(self, tau: float) -> float:
        """Harm; only the order of scores means something when it is `sampled`."""

    def exact(self, tau: float) -> float:
        """Harm."""


class Asked:
    """Asks the server itself: every method, every setting, at the price of one of its rounds a try."""

    sampled = False

    def __init__(self, sight: Sight, outcome: Outcome, base: Array, push: Array) -> None:
        self._sight, self._outcome, self._base, self._push = sight, outcome, base, push
        self._mean = mean(sight.known)

    def score(self, tau: float) -> float:
        """See `Along`."""
        return distance(self._outcome, self._sight.everyone(self._base + tau * self._push), self._mean)

    def exact(self, tau: float) -> float:
        """See `Along`."""
        return self.score(tau)


def along(sight: Sight, base: Array, push: Array) -> Along:
    """By the rule where it is told, else by asking the server; `NotGranted` where neither can be."""
    if sight.rule is not None:
        return sight.rule.line(sight, base, push)
    if sight.outcome is not None:
        return Asked(sight, sight.outcome, base, push)
    raise NotGranted(
        "the harm of a lie depends on the server's rule; grant knowledge of it (+A) to a method of changes", field="knowledge"
    )


def distance(outcome: Outcome, lies: Lies, middle: Array) -> float:
    """Distance of where the server's model goes from where the honest mean would take it. Exact for a server that takes the
    rule's result as its step.
    """
    return float(np.linalg.norm(outcome(lies) - middle))
