"""What a device brings: its model, its data, its loss, its metrics. The code stays on the device.

A device's configuration names `package.module:make_task`; the function is called once and returns a `Task`. PyTorch
users build a `TorchTask` (`edgehold.core.torch_task`); anything else implements the four methods below.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from edgehold.core.vectors import FloatArray, Schema


@dataclass(frozen=True, slots=True)
class LocalTraining:
    """How one device trains in one round: plain SGD over its own data."""

    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal: float = 0.0
    """Coefficient mu of mu/2 * ||w - w_global||^2 added to the loss (FedProx, Li et al. 2020); 0 for none."""
    steps: int = 0
    """Batches at most, of all epochs together; 0: all of them. 1 is one gradient of one random batch, as in distributed SGD."""


@runtime_checkable
class Task(Protocol):
    """One device's model and data, as flat vectors in and out."""

    @property
    def schema(self) -> Schema:
        """Tensors of the model, in the order of the flat vectors."""

    @property
    def samples(self) -> int:
        """Number of training records on this device."""

    def initial(self, seed: int) -> FloatArray:
        """Fresh weights, (schema.size,) float32; the same seed gives the same weights."""

    # In quotes, as in the contract of methods: NumPy's generators are loaded by those who draw, not by every daemon's start.
    def train(self, start: FloatArray, how: LocalTraining, rng: "np.random.Generator") -> FloatArray:
        """Weights after local training from `start` (which is not modified); all randomness comes from `rng`."""

    def evaluate(self, weights: FloatArray) -> dict[str, float]:
        """Metrics on this device's test data, by name ("accuracy", "loss", ...); {} where there is none."""
