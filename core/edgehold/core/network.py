"""A trained model as a graph that runs without its training library, with what is needed to judge the graph against it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from edgehold.core.vectors import Array, FloatArray

Judge = Callable[[Array], Mapping[str, float]]
"""Outputs of the first records, as many as there are rows -> the task's metrics by name."""


class Hand(Protocol):
    """How a task says what it hands over."""

    def __call__(self, weights: FloatArray, graph: bytes | None = None) -> "Network":
        """The model under these flat weights. graph: of it, where somebody has made it already."""


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """What a task says of its model under certain weights, when it is handed over.

    onnx: the graph, every weight inside; one input, whose first axis is the free number of records, and one output with a row
    for each. records: real inputs of the task's test data, (n, ...), or none. reference: records -> outputs as the task itself
    computes them. judge: None where there are no targets. classes: names in the order of the outputs, () for numbers. columns:
    names of the input's columns, () where they have none. threshold: of a detector, whose output is one score per record.
    library: what `reference` computes with.
    """

    onnx: bytes
    records: Array
    reference: Callable[[Array], Array]
    judge: Judge | None = None
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    threshold: float | None = None
    library: Literal["torch", "numpy"] = "numpy"


def decided(outputs: Array, classes: tuple[str, ...], threshold: float | None) -> Array | None:
    """What the outputs decide, one row per record: the index of the class with the highest score, or for one score whether
    class 1 (above 0) or the alarm (above the threshold) is meant; None where numbers are predicted.
    """
    if threshold is not None:
        return np.asarray(outputs.reshape(len(outputs)) > threshold)
    if not classes:
        return None
    if outputs.shape[-1] == 1:
        return np.asarray(outputs[..., 0] > 0, dtype=np.int64)
    return np.asarray(outputs.argmax(-1))
