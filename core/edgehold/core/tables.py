"""A device's records as plain arrays, for methods that look at records and not at gradients. No PyTorch.

A `TableTask` is a `Task` whose model is whatever its method says (a subspace, a linear model, a head): `schema` names its
tensors, `first` makes the weights of a run, `score` judges weights on test records. Its method learns from `train_data`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehold.core.errors import ConfigError
from edgehold.core.network import Hand
from edgehold.core.task import LocalTraining, Task
from edgehold.core.vectors import FloatArray, Schema


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """x: (n, d) float32 or float64. y: (n,) int64 class, or float value where `classes` is empty; (0,) without targets.

    features: names of the d columns, () where they have none. classes: name of each class.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    def checked(self, what: str) -> "Records":
        """These records; `ConfigError` that names column and row of the first value that is not finite, or says what is
        missing. what: whose records they are, for the message.
        """
        if self.x.ndim != 2 or not len(self.x):
            raise ConfigError(f"{what}: records of shape {self.x.shape}; at least one record of numbers is needed")
        if not np.issubdtype(self.x.dtype, np.number):
            raise ConfigError(f"{what}: records of {self.x.dtype}; numbers are needed, so name or drop the text columns")
        if len(self.y) not in (0, len(self.x)):
            raise ConfigError(f"{what}: {len(self.y)} targets for {len(self.x)} records")
        finite = np.isfinite(self.x)
        if not finite.all():
            row, column = (int(at) for at in np.argwhere(~finite)[0])
            name = self.features[column] if self.features else str(column)
            raise ConfigError(f"{what}: column {name!r}, row {row + 1} is {self.x[row, column]}; expected a finite number")
        return self


@dataclass(frozen=True, eq=False)
class TableTask:
    """One device's records and the model that a method fits to them.

    train_data, test_data: None for none (a server has only test data, or none). first: seed -> weights, (schema.size,).
    score: (weights, test records) -> metrics by name. held_data: training records that the method keeps apart, for a
    threshold or for judging others. weight: of each training record's loss, for methods that take one (one over the variance of
    its target). network: weights -> what is handed over to devices that only run the model; None where nothing can be.
    """

    schema: Schema
    train_data: Records | None
    test_data: Records | None
    first: Callable[[int], FloatArray]
    score: Callable[[FloatArray, Records], dict[str, float]]
    held_data: Records | None = None
    weight: float = 1.0
    network: Hand | None = None

    @property
    def samples(self) -> int:
        """Number of training records."""
        return len(self.train_data) if self.train_data is not None else 0

    def initial(self, seed: int) -> FloatArray:
        """See `first`."""
        return self.first(seed)

    def train(self, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> FloatArray:
        """`ConfigError`: only a method that knows what these weights are can fit them."""
        raise ConfigError("this task's model is fitted by its own method, not by gradient steps; choose that method")

    def evaluate(self, weights: FloatArray) -> dict[str, float]:
        """Metrics on the test records; {} without any."""
        return self.score(weights, self.test_data) if self.test_data is not None else {}


def table_of(task: Task, method: str) -> TableTask:
    """The task, if it is one of records; `ConfigError` that says what `method` needs."""
    if not isinstance(task, TableTask):
        raise ConfigError(f"{method} learns from tables of records; this device's task is a {type(task).__name__}")
    return task


def train_records(task: Task, method: str) -> Records:
    """The device's training records, checked; `ConfigError` without any."""
    found = table_of(task, method).train_data
    if found is None:
        raise ConfigError(f"{method}: this task has no training records; it can only evaluate")
    return found.checked("training records")
