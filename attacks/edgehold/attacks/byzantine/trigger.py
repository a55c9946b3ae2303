"""Backdoor triggers on images: a patch, or four bars of which each liar stamps one, and how often they work.

Source: Gu et al. 2017 (BadNets, the patch); Xie et al. 2020 (DBA, the distributed bars).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgehold.attacks.byzantine.bent import array_of
from edgehold.core.errors import ConfigError
from edgehold.core.task import Task
from edgehold.core.vectors import Array, FloatArray

BARS = 4


@dataclass(frozen=True)
class Trigger:
    """A mark in the lower right corner, written over images of shape (..., height, width) or (..., height * width) if square.

    size: side of the patch, or length of a bar. value: what its pixels become, in the units of the task's inputs; None: the
    largest value of the images that are stamped. bars: four bars of one pixel's height instead, one pixel apart, in two rows
    and two columns.
    """

    size: int = 3
    value: float | None = None
    bars: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"size = {self.size}; a trigger has at least one pixel")

    def stamp(self, x: Array, part: int | None = None) -> Array:
        """Copies of the images with the mark. part: only that bar (modulo four); None: all of it."""
        out = x.copy()
        images = pictures(out)
        value = self.value if self.value is not None else float(x.max()) if x.size else 0.0
        for rows, columns in self._places(images.shape[-2:], part):
            images[..., rows, columns] = value
        return out

    def _places(self, shape: tuple[int, ...], part: int | None) -> list[tuple[slice, slice]]:
        height, width = shape
        high, wide = (3, 2 * self.size + 1) if self.bars else (self.size, self.size)
        if high > height or wide > width:
            raise ConfigError(f"a trigger of {high} x {wide} pixels does not fit images of {height} x {width}")
        top, left = height - high, width - wide
        if not self.bars:
            return [(slice(top, height), slice(left, width))]
        every = [(slice(top + down, top + down + 1), slice(left + right, left + right + self.size))
                 for down in (0, 2) for right in (0, self.size + 1)]  # fmt: skip
        return every if part is None else [every[part % BARS]]


def pictures(x: Array) -> Array:
    """A view of the records as (..., height, width); `ConfigError` for records that are no square images."""
    if x.ndim >= 3:
        return x
    side = round(float(np.sqrt(x.shape[-1]))) if x.ndim == 2 else 0
    if not side or side * side != x.shape[-1]:
        raise ConfigError(f"records of shape {x.shape[1:]} are no images; a trigger needs some")
    return x.reshape(len(x), side, side)


def success(task: Task, weights: FloatArray, trigger: Trigger, target: int) -> float:
    """Attack success rate: share of the task's test records of other classes that the stamped model calls `target`.

    The whole trigger is stamped. `ConfigError` for a task without such records.
    """
    pair: Any = getattr(task, "test_data", None)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ConfigError(f"the attack's success is counted on test records; {type(task).__qualname__} shows none")
    x, y = array_of(pair[0]), array_of(pair[1])
    others = y != target
    if not others.any():
        raise ConfigError(f"all test records are of class {target}; nothing to turn into it")
    stamped = trigger.stamp(x[others])
    made: Any = task
    judge = replace(made, train_data=None, test_data=(stamped, np.full(int(others.sum()), target, dtype=y.dtype)),
                    metrics={"hit": lambda outputs, wanted: float((outputs.argmax(1) == wanted).double().mean())})  # fmt: skip
    return float(judge.evaluate(weights)["hit"])
