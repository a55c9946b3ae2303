"""Training many clients at once without their halves noticing.

A client half calls `task.train(...)` and goes on with the result. So it is run up to that call (`Probe` stops it there),
the trainings of many clients are computed together, and it is run again from the start with its result at hand (`Replay`):
halves are pure, so the second run is the first. The task says whether and with whom it can be computed together.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgehold.core.task import LocalTraining, Task
from edgehold.core.vectors import FloatArray

GROUP = 64
"""Clients computed together at most: their models must fit the cache."""


@runtime_checkable
class Companionable(Protocol):
    """A task whose training can be computed together with others'."""

    def companions(self, how: LocalTraining) -> Hashable | None:
        """Tasks that give equal keys can be computed together; None: this one cannot."""

    def train_together(
        self, others: Sequence[Any], starts: Sequence[FloatArray], how: LocalTraining, rngs: Sequence[np.random.Generator]
    ) -> list[FloatArray] | None:
        """Results of `others` (this task is the first of them); None when it does not pay or could not be done."""


class Asked(BaseException):
    """A half asked for this training. Not an `Exception`: no half may catch it."""

    def __init__(self, task: Any, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> None:
        super().__init__()
        self.task, self.start, self.how, self.rng = task, start, how, rng


class Apart(BaseException):
    """A half trains in a way that cannot be computed together with others'."""


@dataclass(frozen=True)
class Trained:
    """A training that was done. after: the client's randomness, where the training left it."""

    weights: FloatArray
    after: Any


class _Stand:
    """A task that is its original but for the training."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


class Probe(_Stand):
    """Stops the half at its first training."""

    def train(self, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> FloatArray:
        """Never returns."""
        raise Asked(self._task, start, how, rng)

    def train_by(self, *how: Any) -> None:
        """Never returns: a method with an optimiser of its own trains alone."""
        raise Apart


class Replay(_Stand):
    """Gives the first training its result; trains as always after that."""

    def __init__(self, task: Any, trained: Trained) -> None:
        super().__init__(task)
        self._trained: Trained | None = trained

    def train(self, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> FloatArray:
        """The weights that were computed together, with the randomness where it was after them."""
        trained, self._trained = self._trained, None
        if trained is None:
            weights: FloatArray = self._task.train(start, how, rng)
            return weights
        rng.bit_generator.state = trained.after
        return trained.weights


def able(task: Task) -> bool:
    """Whether a task can be computed together with others' at all."""
    return isinstance(task, Companionable)


def train(asked: Mapping[str, Asked]) -> dict[str, Trained]:
    """Results by client id, of those for whom it paid; the others train as always."""
    groups: dict[Hashable, list[str]] = {}
    for client, wish in asked.items():
        key = wish.task.companions(wish.how)
        if key is not None:
            groups.setdefault((key, wish.how), []).append(client)
    done: dict[str, Trained] = {}
    for clients in groups.values():
        for at in range(0, len(clients), GROUP):
            part = clients[at : at + GROUP]
            wishes = [asked[client] for client in part]
            first = wishes[0]
            results = first.task.train_together(
                [w.task for w in wishes], [w.start for w in wishes], first.how, [w.rng for w in wishes]
            )
            for client, wish, weights in zip(part, wishes, results or [], strict=False):
                done[client] = Trained(weights, wish.rng.bit_generator.state)
    return done
