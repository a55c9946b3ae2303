"""What FLORAL asks of a device's task beside records: the public features that its head weighs."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from edgehold.core.errors import WrongShape
from edgehold.core.tables import Records, TableTask
from edgehold.core.vectors import Array, FloatArray
from edgehold.defenses.floral import graph
from edgehold.defenses.floral.features import Features, schema_of


@dataclass(frozen=True, eq=False, kw_only=True)
class KernelTask(TableTask):
    """A table whose model is a linear head over `features`; made by `kernel_task`."""

    features: Features


def kernel_task(
    features: Features, classes: int, train: Records | None, test: Records | None, balanced: bool = False
) -> KernelTask:
    """The task of one device, or of the server with test records alone. The first head is 0.

    classes: how many there are anywhere in the federation. Metrics: accuracy, and hinge as the loss; with `balanced` the mean
    over the classes present of the share found of each.
    """
    schema = schema_of(features, classes)
    outputs = schema.tensors[0].shape[1]

    def score(weights: FloatArray, records: Records) -> dict[str, float]:
        found = scores_of(features(records.checked("test records").x), weights, outputs)
        right = predicted(found) == records.y
        metrics = {"accuracy": float(right.mean()), "loss": hinge(found, records.y)}
        if balanced:
            metrics["balanced_accuracy"] = float(np.mean([right[records.y == label].mean() for label in np.unique(records.y)]))
        return metrics

    return KernelTask(
        schema, train, test, lambda seed: np.zeros(schema.size, np.float32), score, features=features,
        network=partial(graph.network, features, outputs, classes, test),
    )  # fmt: skip


def scores_of(phi: Array, weights: FloatArray, outputs: int) -> Array:
    """(n, outputs): phi w + b. weights: the flat head."""
    if len(weights) != (phi.shape[1] + 1) * outputs:
        raise WrongShape(f"a head of {len(weights)} values; {phi.shape[1]} features and {outputs} outputs need "
                         f"{(phi.shape[1] + 1) * outputs}")  # fmt: skip
    head = np.asarray(weights, dtype=np.float64).reshape(-1, outputs)
    return np.asarray(phi @ head[:-1] + head[-1])


def predicted(scores: Array) -> Array:
    """(n,) class: of the highest score, or with one output class 1 where it is above 0."""
    return np.asarray(scores[:, 0] > 0, dtype=np.int64) if scores.shape[1] == 1 else scores.argmax(1)


def hinge(scores: Array, labels: Array) -> float:
    """Mean over records of max(0, 1 - y f), summed over outputs."""
    classes = np.arange(1, 2) if scores.shape[1] == 1 else np.arange(scores.shape[1])
    y = np.where(np.asarray(labels)[:, None] == classes, 1.0, -1.0)
    return float(np.maximum(0.0, 1 - y * scores).sum(1).mean())
