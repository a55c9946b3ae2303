"""Attacks on what a device learns from: the honest half works on another task, so they suit every method.

Knowledge K0. Whoever owns the data can do this without touching a line of the client.
"""

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import numpy as np

from edgehold.core.contract import ClientSide, Facts
from edgehold.core.errors import ConfigError
from edgehold.core.tables import TableTask
from edgehold.core.task import LocalTraining, Task
from edgehold.core.vectors import Array, FloatArray, Schema

Bend = Callable[[Array, Array, np.random.Generator], tuple[Array, Array]]
"""(x, y, the attack's randomness) -> the records to learn from instead; neither may be written to."""


def bent(task: Task, bend: Bend, rng: np.random.Generator) -> Task:
    """The task with other training records; `ConfigError` for one whose records cannot be had."""
    if isinstance(task, TableTask) and task.train_data is not None:
        x, y = bend(task.train_data.x, task.train_data.y, rng)
        return replace(task, train_data=replace(task.train_data, x=x, y=y))
    pair: Any = getattr(task, "train_data", None)
    if is_dataclass(task) and isinstance(pair, tuple) and len(pair) == 2:  # a `TorchTask`, which is not imported for its name
        made: Any = task
        changed: Task = replace(made, train_data=bend(array_of(pair[0]), array_of(pair[1]), rng))
        return changed
    raise ConfigError(
        f"this attack changes training records; {type(task).__qualname__} shows none. Use a TorchTask or a TableTask"
    )


@dataclass(frozen=True)
class OtherTraining:
    """A task that is trained in another way, which a subclass says; everything else is the task's own."""

    task: Task

    @property
    def schema(self) -> Schema:
        """See `Task`."""
        return self.task.schema

    @property
    def samples(self) -> int:
        """See `Task`."""
        return self.task.samples

    def initial(self, seed: int) -> FloatArray:
        """See `Task`."""
        return self.task.initial(seed)

    def train(self, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> FloatArray:
        """See `Task`."""
        return self.task.train(start, how, rng)

    def evaluate(self, weights: FloatArray) -> dict[str, float]:
        """See `Task`."""
        return self.task.evaluate(weights)


@dataclass(frozen=True)
class Learner:
    """The honest half on a bent task. bend: what it works on; after: what is made of its update."""

    honest: ClientSide[Any, Any, Any]
    bend: Callable[[Task], Task]
    after: Callable[[Any], Any] = lambda update: update

    def begin(self, order: Any, task: Task, rng: np.random.Generator) -> Any:
        """As the honest client."""
        return self.honest.begin(order, task, rng)

    def work(self, order: Any, local: Any, task: Task, rng: np.random.Generator) -> tuple[Any, Any, Facts]:
        """Honest work on the bent task."""
        local, update, facts = self.honest.work(order, local, self.bend(task), rng)
        return local, self.after(update), facts

    def dump(self, local: Any) -> bytes:
        """As the honest client."""
        return self.honest.dump(local)

    def load(self, data: bytes) -> Any:
        """As the honest client."""
        return self.honest.load(data)


def array_of(part: Any) -> Array:
    """Records as an array, be they one or a tensor."""
    return np.asarray(part.numpy() if hasattr(part, "numpy") else part)
