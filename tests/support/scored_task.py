"""A task without data or PyTorch whose server's copy scores: the further the model has gone, the better."""

from dataclasses import dataclass

import numpy as np

from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.vectors import FloatArray


@dataclass(frozen=True)
class ScoredTask(SyntheticTask):
    """Starts at 0 and claims an accuracy between 0 and 1."""

    def initial(self, seed: int) -> FloatArray:
        return np.zeros(self.values, np.float32)

    def evaluate(self, weights: FloatArray) -> dict[str, float]:
        return super().evaluate(weights) | {"accuracy": 1 / (1 + abs(float(weights.mean()) - 1))}


def make_task(values: int = 100) -> ScoredTask:
    """A task of `values` numbers; a round adds 1/4 to each."""
    return ScoredTask(values, 0.25)
