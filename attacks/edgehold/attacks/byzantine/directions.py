"""Directions in which liars push away from the honest mean, and how the honest updates lie along them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array, FloatArray, blocks

Direction = Literal["unit", "sign", "spread"]
Choice = Literal["unit", "sign", "spread", "best"]
_WIDE = 1 << 19  # values of a float64 block: 4 MiB

DIRECTIONS: Mapping[Direction, Callable[[Array, Array], Array]] = {
    "unit": lambda middle, spread: -middle / (np.linalg.norm(middle) or 1.0),
    "sign": lambda middle, spread: -np.sign(middle),
    "spread": lambda middle, spread: -spread,
}
"""(honest mean, standard deviation) -> where to push. Source: Shejwalkar and Houmansadr 2021, section IV-C."""


def check_choice(choice: str) -> None:
    """`ConfigError` for no `Choice`."""
    if choice not in get_args(Choice):
        raise ConfigError(f"direction = {choice!r}{suggest(choice, list(get_args(Choice)))}")


def chosen(choice: Choice) -> list[Direction]:
    """The directions to try."""
    return list(DIRECTIONS) if choice == "best" else [choice]


@dataclass(frozen=True)
class Honest:
    """Inner products of honest updates about their mean. gram: (h, h) float64; push: (h,) with the direction; square: of it."""

    gram: Array
    push: Array
    square: float

    @property
    def away(self) -> Array:
        """(h,): squared distances from the mean."""
        return np.asarray(np.diagonal(self.gram))

    @property
    def distances(self) -> Array:
        """(h, h): squared distances among them."""
        return np.asarray(np.maximum(self.away[:, None] + self.away[None, :] - 2 * self.gram, 0.0))


def honest(changes: Mapping[str, FloatArray], middle: Array, push: Array) -> Honest:
    """One pass over the updates, in float64. middle: their mean; push: the direction; both (d,)."""
    rows = list(changes.values())
    gram, along, square = np.zeros((len(rows), len(rows))), np.zeros(len(rows)), 0.0
    for start, stop in blocks(len(middle), max(1, _WIDE // len(rows))):
        block = np.array([row[start:stop] for row in rows], dtype=np.float64) - middle[start:stop]
        gram += block @ block.T
        along += block @ push[start:stop]
        square += float(push[start:stop] @ push[start:stop])
    return Honest(gram, along, square)
