"""Rules that look at one coordinate at a time: one pass over the updates, block by block of columns.

Each works on rows in ascending order per column and adds up in float64 in that order: any order of the clients and any
block size give the same bits.
"""

import numpy as np

from edgehold.core.vectors import Array, Sink, blocks
from edgehold.defenses.baselines.rules.ordering import Wanted, by_column, in_order
from edgehold.defenses.baselines.rules.rows import Rows, columns, held

_PART = 1 << 14  # columns finished at a time, so that what is worked with stays in the cache
_VOTED = 1 << 20  # values of a block of votes


def median(rows: Rows, sink: Sink) -> None:
    """Middle value of each coordinate; the mean of the two middle ones for an even number of rows."""
    by_column(rows, _mean_of_ranks(rows.n, (rows.n - 1) // 2, rows.n // 2 + 1), sink)


def trimmed_mean(rows: Rows, cut: int, sink: Sink) -> None:
    """Mean of each coordinate after its `cut` smallest and `cut` largest values are dropped."""
    by_column(rows, _mean_of_ranks(rows.n, cut, rows.n - cut), sink)


def mean_around_median(rows: Rows, keep: int, sink: Sink) -> None:
    """Mean of the `keep` values of each coordinate nearest its median; of two equally near, the smaller one is taken.

    In ascending order they are neighbours, so the right window is found by moving it upwards while the value that would
    enter is nearer than the one that would leave.
    """
    n, middle = rows.n, _middle(rows.n)

    def finish(ordered: list[Array]) -> Array:
        return np.concatenate([_nearest_mean([row[a:b] for row in ordered], keep) for a, b in blocks(len(ordered[0]), _PART)])

    marks = [rank if rank < n - keep or rank >= keep or rank in middle else "inside" for rank in range(n)]
    by_column(rows, Wanted(tuple(marks), 0, 0, keep, finish), sink)


def sign_majority(rows: Rows, step: float, sink: Sink) -> None:
    """Each coordinate moves by `step` towards where most updates point; an even vote does not move it.

    Source: Bernstein et al. 2019, arXiv:1810.05291, algorithm 1. Departure: signs of whole local trainings, not of gradients.
    """

    def vote(span: tuple[int, int]) -> Array:
        votes = np.zeros(span[1] - span[0], dtype=np.int32)
        for values in rows.views(*span):
            votes += (values > 0).view(np.int8)
            votes -= (values < 0).view(np.int8)
        return step * np.sign(votes)

    in_order(list(blocks(rows.d, min(held(rows), columns(rows, _VOTED)))), vote, sink.write)


def _mean_of_ranks(n: int, lo: int, hi: int) -> Wanted:
    marks = tuple("kept" if lo <= rank < hi else None for rank in range(n))
    return Wanted(
        marks, lo, hi, 0, lambda ordered: _mean(ordered[lo:hi]), lambda ordered: _mean_across(ordered[:, lo:hi])
    )  # fmt: skip


def _nearest_mean(ordered: list[Array], keep: int) -> Array:
    n = len(ordered)
    low, high = _middle(n)[0], _middle(n)[-1]
    twice = np.add(ordered[low], ordered[high], dtype=np.float64)
    window, both, other = ordered[:keep], np.empty_like(twice), np.empty_like(twice)
    nearer = np.empty(len(twice), dtype=bool)
    for leaving in range(n - keep):
        entering = ordered[leaving + keep]
        # median - leaving > entering - median, without differences, whose rounding could make ties. Once false, it
        # stays false further up: each slot of the window holds the last value that entered through it.
        both[:] = ordered[leaving]
        other[:] = entering
        np.less(np.add(both, other, out=both), twice, out=nearer)
        # where, not a masked copy: which one enters is as good as random, and a branch per value costs more.
        window[leaving % keep] = np.where(nearer, entering, window[leaving % keep])
    return _mean(window)


def _middle(n: int) -> tuple[int, ...]:
    return tuple(sorted({(n - 1) // 2, n // 2}))


def _mean(values: list[Array]) -> Array:
    total = np.zeros(len(values[0]))
    for row in values:
        # Adding to +0 also makes -0 into +0, whose place among equal values a sort does not settle.
        total += row
    return total / len(values)


def _mean_across(values: Array) -> Array:
    # accumulate, because reduce adds in pairs; widened first: a sum that casts as it goes is cut at buffer ends.
    wide = values.astype(np.float64)
    return np.asarray((np.add.accumulate(wide, axis=1, out=wide)[:, -1] + 0.0) / wide.shape[1])
