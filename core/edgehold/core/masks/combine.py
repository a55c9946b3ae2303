"""One model out of several groups' sums: a liar moves its own group, and robust statistics over groups leave that group out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Literal

import numpy as np

from edgehold.core.masks.draw import count
from edgehold.core.masks.sums import GroupSum
from edgehold.core.vectors import BLOCK, Array

ENOUGH = 5
"""Groups from which on a median or a trimmed mean is taken; fewer are simply averaged, and one liar moves the average."""
How = Literal["median", "trimmed"]


@dataclass(frozen=True, slots=True)
class Blend:
    """What a plan says of it; trim: share of groups left out at either end by the trimmed mean."""

    how: How = "median"
    trim: float = 0.2

    def means(self, sums: Sequence[GroupSum]) -> Iterator[Array]:
        """See `means`."""
        return means(sums, self.how, self.trim)

    def exact(self, sums: Sequence[GroupSum], start: int, stop: int) -> tuple[Array, int]:
        """See `exact`."""
        return exact(sums, start, stop, self.how, self.trim)


def means(sums: Sequence[GroupSum], how: How = "median", trim: float = 0.2, size: int = BLOCK) -> Iterator[Array]:
    """Per entry the median, or the mean without the share `trim` of groups at either end, of the groups' means; float64 blocks.

    Groups count alike whatever their size (sizes differ by what dropped out). With fewer than `ENOUGH`: the mean over all
    survivors, exactly the sum of all integers divided once.
    """
    lo, hi = _middle(len(sums), how, trim)
    length = len(sums[0].residues)
    for start in range(0, length, size):
        rows = [one.read(start, min(start + size, length)) for one in sums]
        if len(sums) < ENOUGH:
            yield np.add.reduce(rows) / sum(len(one.survivors) for one in sums)
            continue
        table = np.sort(np.stack([row / len(one.survivors) for row, one in zip(rows, sums, strict=True)]), axis=0)
        yield table[lo:hi].sum(axis=0) / (hi - lo)


def exact(sums: Sequence[GroupSum], start: int, stop: int, how: How = "median", trim: float = 0.2) -> tuple[Array, int]:
    """What `means` says of the entries start..stop, without rounding: numerators, and the one denominator they all have.

    For votes, where a tie must be a tie. int64; Python's integers (dtype object) where means over groups of many different
    sizes have a common denominator too large for that.
    """
    lo, hi = _middle(len(sums), how, trim)
    rows, sizes = [one.read(start, stop) for one in sums], [len(one.survivors) for one in sums]
    if len(sums) < ENOUGH:
        return np.add.reduce(rows), sum(sizes)
    common = lcm(*sizes)
    largest = max(int(np.abs(row).max(initial=0)) * (common // size) for row, size in zip(rows, sizes, strict=True))
    kind = np.dtype(np.int64 if largest * len(sums) < 1 << 63 else object)
    table = np.sort(np.stack([row.astype(kind) * (common // size) for row, size in zip(rows, sizes, strict=True)]), axis=0)
    return table[lo:hi].sum(axis=0), common * (hi - lo)


def _middle(groups: int, how: How, trim: float) -> tuple[int, int]:
    """Which of so many sorted means are averaged: from the first up to the second."""
    if not groups:
        raise ValueError("no group is left")
    if not 0 <= trim < 0.5:
        raise ValueError(f"trim of {trim:g}; at least 0 and less than a half is possible")
    cut = int(trim * groups + 1e-9)
    return (cut, groups - cut) if how == "trimmed" else ((groups - 1) // 2, groups // 2 + 1)


def promise(devices: int, least: int, most: int) -> str:
    """What so many devices in groups of such sizes promise against liars, for people."""
    number = count(devices, least, most)
    largest = -(-devices // number)
    said = f"{number} group{'s' if number > 1 else ''} of up to {largest}"
    if number < ENOUGH:
        return f"{said}: fewer than {ENOUGH}, so that a single liar can move the result"
    return f"{said}: liars below {liars_withstood(largest):.1%} of the devices leave most groups without one"


def liars_withstood(members: int) -> float:
    """Share of liars below which a group of so many is more likely free of liars than not: f < 1 - 0.5^(1/m).

    With many groups the median is then that of honest groups. At m = 16 it is 4.2 %, at m = 32 2.1 %.
    """
    return float(1 - 0.5 ** (1 / members))
