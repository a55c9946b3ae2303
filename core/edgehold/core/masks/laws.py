"""Laws that sums keep when every summand keeps its own: the last thing that is tested of a group, and all that can be."""

from collections.abc import Iterator, Sequence

import numpy as np

from edgehold.core.errors import OutsideLaw
from edgehold.core.vectors import Array


def bounded(blocks: Iterator[Array], survivors: int, largest: int, margin: int = 0) -> int:
    """The total of a sum whose entries lie in [0, survivors x largest] (more or less by the margin); `OutsideLaw` for others.

    Bits: largest 1. Fixed point: twice its half.
    """
    total = 0
    for block in blocks:
        low, high = int(block.min()), int(block.max())
        if low < -margin or high > survivors * largest + margin:
            raise OutsideLaw(
                f"a sum with entries from {low} to {high}; [0, {survivors * largest}] is legal, {margin} more for noise"
            )
        total += int(block.sum())
    return total


def total_is(total: int, wanted: int) -> None:
    """`OutsideLaw` where the entries of a sum do not add up to what the law fixes."""
    if total != wanted:
        raise OutsideLaw(f"a sum whose entries add up to {total}; {wanted} is legal")


def ranked(blocks: Iterator[Array], survivors: int, layers: Sequence[int]) -> None:
    """Scores of rankings, layer after layer of L edges: each in [0, s(L - 1)], together s L(L - 1) / 2 in each layer.

    Not all such sums are sums of permutations; what remains is within what one liar can do anyway.
    """
    layer, left, total = 0, layers[0], 0
    for block in blocks:
        at = 0
        while at < len(block):
            part = block[at : at + left]
            total += bounded(iter((part,)), survivors, layers[layer] - 1)
            at, left = at + len(part), left - len(part)
            if not left:
                total_is(total, survivors * layers[layer] * (layers[layer] - 1) // 2)
                layer, total = layer + 1, 0
                left = layers[layer] if layer < len(layers) else 0
                if not left and at < len(block):
                    raise OutsideLaw("a sum with more entries than all layers together")
    if layer < len(layers):
        raise OutsideLaw(f"a sum that ends in layer {layer + 1} of {len(layers)}")


def rank_scores(order: Array) -> Array:
    """A ranking as what is summed: (L,) int64, each edge's place in it, from 0 for the weakest. order: a permutation."""
    scores = np.empty(len(order), np.int64)
    scores[order] = np.arange(len(order))
    return scores
