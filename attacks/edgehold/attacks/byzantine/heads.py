"""Lies in heads, against Bristle: trained on flipped classes, or noise. They read nobody and say nothing unlawful.

In client.toml: [adversary] entry = "edgehold.attacks.byzantine.heads:make", options = {lie = "flip_all"}.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgehold.core.config import suggest
from edgehold.core.contract import Adversary, ClientSide, Facts
from edgehold.core.errors import ConfigError
from edgehold.core.tables import Records, TableTask, table_of
from edgehold.core.task import Task
from edgehold.core.vectors import Array, Vector
from edgehold.defenses.bristle.state import Order, Update, head_shape

Poison = Callable[[Array, int], Array]
"""(labels, number of classes) -> labels to train on."""


def flip_all(labels: Array, classes: int) -> Array:
    """Every class becomes the one opposite: y -> C - 1 - y."""
    return classes - 1 - labels


def flip_two(labels: Array, classes: int) -> Array:
    """The first two classes change places."""
    return np.where(labels < 2, 1 - labels, labels)


POISONS: Mapping[str, Poison] = {"flip_all": flip_all, "flip_two": flip_two}
LIES = (*POISONS, "noise")


def noise(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """The authors' noise: uniform in -0.5..0 in the first half of the columns, in 0..0.5 in the rest; (d, C) float32."""
    half = shape[1] // 2
    drawn = rng.random(shape) / 2
    drawn[:, :half] -= 0.5
    return drawn.astype(np.float32)


def tailored(heads: Mapping[str, Array], receiver: str, familiar: Array) -> Array:
    """A head made for one receiver: its own columns where it can judge, and -3 times everybody's mean where it cannot.

    heads: honest heads (d, C) by client.
    """
    lie: Array = np.asarray(-3 * np.mean([heads[one] for one in sorted(heads)], axis=0, dtype=np.float64))
    lie[:, familiar] = heads[receiver][:, familiar]
    return lie.astype(np.float32)


def make(lie: str = "flip_all") -> Adversary:
    """Sends the lie of that name: "flip_all", "flip_two" or "noise"."""
    if lie not in LIES:
        raise ConfigError(f"lie = {lie!r}{suggest(lie, list(LIES))}")
    return lambda honest, client: HeadLiar(honest, lie)


@dataclass(frozen=True)
class HeadLiar:
    """Trains by itself on poisoned records, or sends noise instead of what it trained."""

    honest: ClientSide[Any, Any, Any]
    lie: str

    def begin(self, order: Order, task: Task, rng: np.random.Generator) -> Any:
        """As the honest client."""
        return self.honest.begin(order, task, rng)

    def choose(self, order: Order, local: Any, task: Task, rng: np.random.Generator) -> tuple[str, ...]:
        """Nobody: a liar has nothing to learn from others."""
        return ()

    def receive(self, order: Order, local: Any, sent: Mapping[str, Update], task: Task, rng: np.random.Generator) -> Any:
        """Nothing was asked for."""
        return local

    def work(self, order: Order, local: Any, task: Task, rng: np.random.Generator) -> tuple[Any, Update, Facts]:
        """Honest work on other labels; or noise in place of its outcome."""
        shape = head_shape(task.schema)
        if self.lie in POISONS:
            return self.honest.work(order, local, _poisoned(table_of(task, "this attack"), POISONS[self.lie], shape[1]), rng)
        local, update, facts = self.honest.work(order, local, task, rng)
        return local, replace(update, head=Vector.of(noise(shape, rng))), facts

    def dump(self, local: Any) -> bytes:
        """As the honest client."""
        return self.honest.dump(local)

    def load(self, data: bytes) -> Any:
        """As the honest client."""
        return self.honest.load(data)


def _poisoned(task: TableTask, poison: Poison, classes: int) -> TableTask:
    def relabelled(records: Records | None) -> Records | None:
        return None if records is None else replace(records, y=poison(records.y, classes))

    return replace(task, train_data=relabelled(task.train_data), held_data=relabelled(task.held_data))
