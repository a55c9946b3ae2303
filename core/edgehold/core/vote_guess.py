"""Guessing which weights of a seed's network pruning has left: those of a large size, by a threshold for each row.

A saliency such as SynFlow's is the size of a weight times what its row and column carry, and columns differ little. So a
threshold for each output says nearly all of a mask, and the few places where it is wrong take less room than the mask.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgehold.core.vectors import FloatArray

Bits = NDArray[np.bool_]
Drawn = Sequence[FloatArray]
"""The drawn weights of each layer, (outputs, inputs) float32."""


def thresholds(drawn: Drawn, used: Bits) -> FloatArray:
    """For each output of each layer the size from which on weights are guessed to be used, with the fewest errors; float32.

    used: (n,), of all layers. Infinite where nothing of a row is used.
    """
    return np.concatenate([_best(np.abs(layer), part) for layer, part in zip(drawn, _cut(drawn, used), strict=True)])


def guessed(drawn: Drawn, levels: FloatArray) -> Bits:
    """(n,): the weights that reach the threshold of their row."""
    found, at = [], 0
    for layer in drawn:
        found.append((np.abs(layer) >= levels[at : at + len(layer), None]).reshape(-1))
        at += len(layer)
    return np.concatenate(found)


def rows(drawn: Drawn) -> int:
    """How many thresholds there are."""
    return sum(map(len, drawn))


def _best(sizes: FloatArray, used: Bits) -> FloatArray:
    order = np.argsort(sizes, axis=1, kind="stable")
    ranked = np.take_along_axis(used, order, axis=1)
    # Errors with the threshold before rank j: what is used below it, and what is not used from there on.
    below = np.pad(np.cumsum(ranked, axis=1), ((0, 0), (1, 0)))
    above = np.pad(np.cumsum(~ranked[:, ::-1], axis=1)[:, ::-1], ((0, 0), (0, 1)))
    place = np.argmin(below + above, axis=1)
    levels = np.pad(np.take_along_axis(sizes, order, axis=1), ((0, 0), (0, 1)), constant_values=np.inf)
    return np.asarray(levels[np.arange(len(levels)), place], dtype=np.float32)


def _cut(drawn: Drawn, used: Bits) -> Iterator[Bits]:
    at = 0
    for layer in drawn:
        yield used[at : at + layer.size].reshape(layer.shape)
        at += layer.size
