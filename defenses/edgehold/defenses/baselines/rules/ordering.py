"""Sorting every column of a block: what coordinate-wise rules spend their time on.

A merge-exchange network orders many columns at once, without the comparisons whose outcome nobody asks for: compiled for up
to `PRUNED` rows. Above that the kernels sort whole columns by merges that stay in registers and cache. Without kernels the
network runs on whole rows of a block for up to `NETWORK` rows; above that NumPy's vectorised sort of the transposed block is
faster (measured crossing: between 50 and 100 rows).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from edgehold.core import kernels
from edgehold.core.vectors import Array, Sink, blocks
from edgehold.defenses.baselines.rules.rows import Rows, Scratch, columns, cores, fill, held

PRUNED, NETWORK = 128, 64
_WIDE, _MOST = 1 << 20, 1 << 15
"""Values of a block for NumPy (4 MiB) and of one of its rows (128 KiB): calls must be long beside what a call costs."""
_SORT = 1 << 17  # values transposed and sorted at a time: half a MiB
Finish = Callable[[list[Array]], Array]
"""Rows in ascending order (each (columns,) float32, may be written to) -> combined columns, float64."""
Comparison = tuple[int, int, bool, bool]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is made of the ordered values of a column, twice: for the kernel and, bit for bit the same, for NumPy.

    marks: what each rank is used for: None for not at all; equal marks for ranks that may change places.
    lo, hi, keep: see `Kernels.ordered_mean`. finish: the same for rows in ascending order, each (columns,) float32, which it
    may write to; gives (columns,) float64. across: the same for a sorted (columns, n) block, spared the way back into rows.
    """

    marks: tuple[object, ...]
    lo: int
    hi: int
    keep: int
    finish: Finish
    across: Callable[[Array], Array] | None = None


def by_column(rows: Rows, wanted: Wanted, sink: Sink) -> None:
    """Write what is wanted of every column, block by block, on all cores."""
    compiled, n = kernels.loaded(), rows.n
    if compiled is not None:
        network = None
        if n <= PRUNED:
            pairs = [(low, high) for low, high, _, _ in comparisons(n, wanted.marks)]
            network = np.array(pairs, dtype=np.int32).reshape(-1, 2)
        in_order(
            list(blocks(rows.d, held(rows))),
            lambda span: compiled.ordered_mean(rows.views(*span), network, wanted.lo, wanted.hi, wanted.keep),
            sink.write,
        )
        return
    scratch, exchanges = Scratch(), comparisons(n, wanted.marks) if n <= NETWORK else ()

    def work(span: tuple[int, int]) -> Array:
        lo, hi = span
        block = scratch.take("block", n, hi - lo)
        fill(rows, lo, hi, block)
        if n <= NETWORK:
            return wanted.finish(_exchanged(block, exchanges, scratch))
        done = []
        for start, stop in blocks(hi - lo, _SORT // n):
            ordered = scratch.take("ordered", stop - start, n)
            # Sorting along the last axis uses vector instructions; along the first it does not.
            ordered[:] = block[:, start:stop].T
            ordered.sort(axis=1)
            if wanted.across is not None:
                done.append(wanted.across(ordered))
            else:
                block[:, start:stop] = ordered.T
        return np.concatenate(done) if wanted.across is not None else wanted.finish(list(block))

    in_order(list(blocks(rows.d, columns(rows, _WIDE, _MOST))), work, sink.write)


Span: TypeAlias = tuple[int, int]
InOrder: TypeAlias = Callable[[Sequence[Span], Callable[[Span], Array], Callable[[Array], None]], None]
_ELSEWHERE: ContextVar[InOrder | None] = ContextVar("elsewhere", default=None)


@contextmanager
def elsewhere(hands: InOrder) -> Iterator[None]:
    """Inside, this thread's rules give their blocks to `hands`, which does as `in_order` does."""
    before = _ELSEWHERE.set(hands)
    try:
        yield
    finally:
        _ELSEWHERE.reset(before)


def in_order(spans: Sequence[Span], work: Callable[[Span], Array], write: Callable[[Array], None]) -> None:
    """write(work(span)) for every span, in order, worked out by all cores at once; few results wait at any time.

    Inside `elsewhere` other machines do the work.
    """
    hands = _ELSEWHERE.get()
    if hands is not None:
        hands(spans, work, write)
        return
    threads = min(cores(), len(spans))
    if threads <= 1:
        for span in spans:
            write(work(span))
        return
    waiting: deque[Future[Array]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="rule") as pool:
        for span in spans:
            waiting.append(pool.submit(work, span))
            if len(waiting) > threads + 1:
                write(waiting.popleft().result())
        while waiting:
            write(waiting.popleft().result())


def _exchanged(block: Array, network: Sequence[Comparison], scratch: Scratch) -> list[Array]:
    rows, spare = list(block), scratch.take("spare", block.shape[1])
    for low, high, want_low, want_high in network:
        a, b = rows[low], rows[high]
        if want_low and want_high:
            np.minimum(a, b, out=spare)
            np.maximum(a, b, out=b)
            rows[low], spare = spare, a
        elif want_low:
            np.minimum(a, b, out=a)
        else:
            np.maximum(a, b, out=b)
    return rows


@lru_cache(maxsize=64)
def comparisons(n: int, wanted: tuple[object, ...]) -> tuple[Comparison, ...]:
    """Batcher's merge exchange for n values (Knuth 5.2.2, algorithm M), without what no wanted rank depends on.

    Each is (low, high, low is used later, high is used later). From the end backwards, a comparison goes when both ranks
    carry the same mark and nothing kept looks at them afterwards.
    """
    marks: list[object] = list(wanted)
    touched = object()
    kept: list[Comparison] = []
    for low, high in reversed(_merge_exchange(n)):
        if marks[low] == marks[high] and marks[low] is not touched:
            continue
        kept.append((low, high, marks[low] is not None, marks[high] is not None))
        marks[low] = marks[high] = touched
    return tuple(reversed(kept))


def _merge_exchange(n: int) -> list[tuple[int, int]]:
    top = 1
    while 2 * top < n:
        top *= 2
    pairs, p = [], top if n > 1 else 0
    while p > 0:
        q, r, gap = top, 0, p
        while gap > 0:
            pairs += [(i, i + gap) for i in range(n - gap) if i & p == r]
            gap, q, r = q - p, q // 2, p
        p //= 2
    return pairs
