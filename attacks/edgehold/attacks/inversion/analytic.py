"""The input of a fully connected first layer, from its gradient: no search, no knowledge of the layers behind it.

For one record dL/dW = dL/db x^T, whatever stands behind, so that any row of dL/dW over its entry of dL/db is x.
Source: Phong et al. 2018, "Privacy-preserving deep learning via additively homomorphic encryption"; Geiping et al.
2020, arXiv:2003.14053, proposition 3.1. Departure: all rows count, by least squares.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array, Schema, Tensor
from edgehold.defenses.baselines.fedavg.state import Order, Update

EXACT = 1e-6
"""Mean squared error below which a record counts as read."""
FAILED = 0.1
"""Share of the data's variance above which the mean squared error counts as a defeat."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """mse: mean squared error per value of what was read; variance: of the data, the error of who guesses their mean."""

    mse: float
    variance: float

    @property
    def exact(self) -> bool:
        """Whether the record was read."""
        return self.mse < EXACT

    @property
    def failed(self) -> bool:
        """Whether nothing worth having was read."""
        return not self.mse <= FAILED * self.variance


def judge(found: Array, record: Array, records: Array) -> Verdict:
    """found, record: what was read and what was there, of one size; records: (n, ...) the data it is measured against."""
    error = np.asarray(found, np.float64).reshape(-1) - np.asarray(record, np.float64).reshape(-1)
    spread = np.asarray(records, np.float64).reshape(len(records), -1).var(axis=0)
    return Verdict(float(np.mean(error * error)), float(spread.mean()))


def first_step(delta: Array, start: Array, learning_rate: float, weight_decay: float) -> Array:
    """The gradient behind one step of SGD from `start`, float64. Momentum plays no part: velocities start at nothing."""
    return np.asarray(delta, np.float64) / -learning_rate - weight_decay * np.asarray(start, np.float64)


def input_of(weight: Array, bias: Array) -> Array:
    """x, (inputs,) float64, from dL/dW (outputs, inputs) and dL/db (outputs,) of one record; nan where dL/db is all 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((bias[:, None] * weight).sum(axis=0) / (bias * bias).sum())


def invert(order: Order, update: Update, schema: Schema) -> Array:
    """The one record behind a FedAvg update of one local step, (inputs,) float64.

    With several steps or records: the mean of the inputs, weighed by the rows' own gradients. `ConfigError` when the model does
    not begin with a linear layer with bias.
    """
    weight, bias = first_layer(schema.tensors)
    how = order.training
    gradient = first_step(update.delta.whole(), order.model.whole(), how.learning_rate, how.weight_decay)
    return input_of(gradient[: weight.size].reshape(weight.shape), gradient[weight.size : weight.size + bias.size])


def first_layer(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias; `ConfigError` unless the first two tensors are those of a linear layer."""
    shapes = [tensor.shape for tensor in tensors[:2]]
    if len(shapes) < 2 or len(shapes[0]) != 2 or shapes[1] != shapes[0][:1]:
        raise ConfigError(
            f"the model begins with tensors of shapes {shapes}; a linear layer with bias is needed to read its input"
        )
    return tensors[0], tensors[1]
