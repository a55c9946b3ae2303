"""A malicious server's first layer that sorts records into bins: each alone in its bin is read off the gradient.

All k units compute the mean of the record's numbers; their biases are minus the k quantiles of that mean on public records, and
the layer behind treats all units alike. Records above a threshold switch its unit on, so that the difference of the gradients
of two neighbouring units is that of the records between two thresholds: x = difference of dW over difference of db.
Source: Fowl et al. 2022, "Robbing the Fed", arXiv:2110.13057. Here the model's own first two linear layers are written over,
so that no layer is added.
"""

import numpy as np

from edgehold.attacks.inversion.analytic import first_layer
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array, FloatArray, Schema

SMALLEST = 1e-4
"""Of the largest bin's gradient: bins below it are empty, or noise."""


def craft(weights: FloatArray, schema: Schema, public: Array) -> FloatArray:
    """The weights a malicious server sends, (size,) float32. public: (any, ...) records like those of the clients.

    `ConfigError` when the model does not begin with two linear layers, or has more units than public records can part.
    """
    weight, bias = first_layer(schema.tensors)
    if len(schema.tensors) < 3 or len(schema.tensors[2].shape) != 2 or schema.tensors[2].shape[1] != bias.size:
        raise ConfigError("bins need a second linear layer right behind the first, to treat all its units alike")
    means = np.asarray(public, np.float64).reshape(len(public), -1).mean(axis=1)
    if means.std() == 0:
        raise ConfigError(f"{len(public)} public records, all of mean {means[0]:g}: quantiles need records that differ")
    thresholds = np.quantile(means, np.arange(bias.size) / bias.size)
    sent = np.array(weights, np.float32)
    sent[: weight.size] = 1.0 / weight.shape[1]
    sent[weight.size : weight.size + bias.size] = -thresholds
    behind = schema.tensors[2]
    at = weight.size + bias.size
    # One value per output, the same for all units, of a size that lets outputs vary by about 1 from record to record: much
    # less drowns in the rounding of float32 weights, much more saturates what follows.
    sums = np.maximum(means[:, None] - thresholds, 0).sum(axis=1)
    values = np.linspace(-1.0, 1.0, behind.shape[0]) / max(float(sums.std()), 1e-12)
    sent[at : at + behind.size] = np.repeat(values, bias.size)
    if len(schema.tensors) > 3 and schema.tensors[3].shape == behind.shape[:1]:
        sent[at + behind.size : at + behind.size + behind.shape[0]] = -values * sums.mean()
    return sent


def read(weight: Array, bias: Array, thresholds: Array, records: int) -> Array:
    """(found, inputs) float64: what the bins hold, at most `records`, those of the largest gradients.

    weight: dL/dW (k, inputs), bias: dL/db (k,), thresholds: (k,) minus the biases that were sent, ascending. A bin's record has
    a mean between its thresholds; where rounding or noise says otherwise, it is put there.
    """
    steps = np.diff(np.asarray(bias, np.float64), append=0.0)
    rows = np.diff(np.asarray(weight, np.float64), axis=0, append=np.zeros((1, weight.shape[1])))
    # A row's difference is minus the record: what the next unit does not see any more.
    means = rows.mean(axis=1)
    heights = np.abs(means)
    if not np.isfinite(rows).all() or not np.isfinite(steps).all() or not heights.any():
        return np.zeros((0, weight.shape[1]))
    order = np.argsort(-heights, kind="stable")[:records]
    kept = order[heights[order] > SMALLEST * heights.max()]
    tops = np.append(thresholds[1:], np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        said = np.nan_to_num(means[kept] / steps[kept], nan=0.0, posinf=1e30, neginf=0.0)
    return np.asarray(rows[kept] / means[kept, None] * np.clip(said, thresholds[kept], tops[kept])[:, None])


def imprinted(weights: FloatArray, schema: Schema) -> bool:
    """Whether the first layer's rows are all the same: what a client can notice before it trains."""
    weight, _ = first_layer(schema.tensors)
    rows = np.asarray(weights[: weight.size]).reshape(weight.shape)
    return bool(np.allclose(rows, rows[0]))
