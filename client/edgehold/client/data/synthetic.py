"""A task without data or PyTorch: "training" adds a constant. For measuring everything around the training."""

from dataclasses import dataclass

import numpy as np

from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining
from edgehold.core.vectors import FloatArray, Schema, Tensor


@dataclass(frozen=True)
class SyntheticTask:
    """values: size of the model; step: what one round of training adds to every value; samples: claimed records."""

    values: int
    step: float
    samples: int = 1

    @property
    def schema(self) -> Schema:
        """One tensor."""
        return Schema((Tensor("values", (self.values,)),))

    def initial(self, seed: int) -> FloatArray:
        """Normal values, (values,) float32."""
        return stream(seed, "synthetic").standard_normal(self.values, dtype=np.float32)

    def train(self, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> FloatArray:
        """`start` plus the step."""
        return np.add(start, np.float32(self.step), dtype=np.float32)

    def evaluate(self, weights: FloatArray) -> dict[str, float]:
        """Half the mean square as the loss."""
        return {"loss": float(0.5 * np.mean(np.square(weights, dtype=np.float64)))}


def make_task(values: int = 1000, device_index: int = 0, samples: int = 1) -> SyntheticTask:
    """A task of `values` numbers; device i adds (i + 1) / 1024, exact in float32."""
    return SyntheticTask(values, (device_index + 1) / 1024, samples)
