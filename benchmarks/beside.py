"""What a peer answered, or why it did not, and whether both sides did the same work."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.frame import Options
from edgehold.core.errors import ConfigError, FlError
from edgehold.core.vectors import Array

APART = 0.01
"""Relative distance of two results above which they do not count as the same."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a peer answered, or why it did not. found: None then."""

    found: dict[str, float] | None
    why: str = ""

    def value(self, key: str, scale: float = 1.0) -> float | None:
        """One number of the answer, times `scale`."""
        return None if self.found is None else scale * self.found[key]

    def note(self, text: str) -> str:
        """A note with the reason at its end."""
        return f"{text}; {self.why}" if self.why else text


def asked(call: Callable[[], dict[str, float]], options: Options) -> Asked:
    """What a peer answers; its failure as the reason."""
    try:
        return Asked(call())
    except FlError as error:
        options.say(error.message)
        return Asked(None, one_line(error.message))


def one_line(text: str) -> str:
    """For a cell of a table."""
    return " ".join(text.replace("|", "/").split())[:240]


def apart(ours: Array, theirs: Array, start: Array | None = None) -> float:
    """Relative Euclidean distance of two results; `ConfigError` above `APART`. start: what both results moved away from."""
    if ours.shape != theirs.shape:
        raise ConfigError(f"results of shapes {ours.shape} and {theirs.shape} are not of the same work")
    moved = ours if start is None else ours - start
    distance = float(np.linalg.norm(ours - theirs) / np.linalg.norm(moved))
    if not distance <= APART:  # not a number is no agreement
        raise ConfigError(f"not the same work: the results are {distance:.2g} apart, relative to ours; allowed: {APART:g}")
    return distance
