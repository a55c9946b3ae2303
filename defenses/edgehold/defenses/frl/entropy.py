"""Permutations in nearly as few bits as there are of them, without arithmetic coding: n log2 n - n bits or a little more.

Rank = 8 bucket + place. What is written: the bucket of every edge, by edge id, and for every bucket in which order its eight
edges, sorted by id, take its places: a Lehmer index below 8!. Splitting a set in halves of m costs only log2(pi m) / 2 bits
more than the choice of one half, so only the smallest sets are worth a code of their own.

Buckets: the lowest `low` bits as they are; what is above them, symbols below `letters`, several to a word (the first one
counting 1, the next `letters`, ..), so that fractions of a bit are not lost. Word i holds the symbols of edges i, i + W,
i + 2 W .. of W words. Indices go by twos to a word of 31 bits, that of bucket i (counting 1) with that of i + H (counting 8!)
of H words. Bytes of a layer: the buckets' low bits, words, indices, each as in `packing`.

Law: every bucket exactly full (the last one as far as there are ranks), every word and index below its limit, spare symbols and
bits zero. So one permutation has one code.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from math import factorial

import numpy as np

from edgehold.core.errors import NotPermutation, WrongShape
from edgehold.core.vectors import Array, Blob
from edgehold.defenses.frl.sorting import inverse, sorted_places
from edgehold.defenses.packing import pack, packed_bytes, unpack, width

EIGHT = 8
_ORDERS = factorial(EIGHT)
_PAIR_BITS = (_ORDERS**2 - 1).bit_length()
_WORD = 1 << 16
"""Words of symbols stay below this, so that they are taken apart in uint16."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a layer is cut. buckets: of eight ranks; low: plain bits of a bucket; letters: symbols above them; each: to a word
    (0: there is one letter only, and no words).
    """

    edges: int
    buckets: int
    low: int
    letters: int
    each: int

    @property
    def words(self) -> int:
        """Words of symbols."""
        return -(-self.edges // self.each) if self.each else 0

    @property
    def word_bits(self) -> int:
        """Bits of a word of symbols."""
        return width(self.letters**self.each)

    @property
    def pairs(self) -> int:
        """Words of two indices."""
        return -(-self.buckets // 2)

    @property
    def size(self) -> int:
        """Bytes."""
        words = packed_bytes(self.words, self.word_bits)
        return packed_bytes(self.edges, self.low) + words + packed_bytes(self.pairs, _PAIR_BITS)


@lru_cache(maxsize=256)
def plan_of(edges: int) -> Plan:
    """The cut with the fewest bytes; of equals the one with the most plain bits, which is fastest."""
    buckets = -(-edges // EIGHT)
    cuts = []
    for low in range(width(buckets) + 1):
        letters = (buckets + (1 << low) - 1) >> low
        each = 1
        if letters == 1:
            cuts.append(Plan(edges, buckets, low, 1, 0))
        while letters > 1 and letters**each <= _WORD:
            cuts.append(Plan(edges, buckets, low, letters, each))
            each += 1
    return min(cuts, key=lambda cut: (cut.size, -cut.low, cut.each))


class Entropy:
    """See the module. A `Form` of ranks."""

    def size(self, edges: int) -> int:
        """Bytes of a layer of so many edges."""
        return plan_of(edges).size

    def write(self, ranks: Array) -> Iterator[Array]:
        """The bytes of (n,) ranks, uint8."""
        cut = plan_of(len(ranks))
        bucket = ranks >> 3
        yield from pack(bucket & ((1 << cut.low) - 1), cut.low)
        if cut.each:
            symbols = np.zeros(cut.words * cut.each, dtype=np.uint16)
            symbols[: cut.edges] = bucket >> cut.low
            stripes = symbols.reshape(cut.each, cut.words)
            words = stripes[-1].copy()
            for stripe in stripes[-2::-1]:
                words *= np.uint16(cut.letters)
                words += stripe
            yield from pack(words, cut.word_bits)
        orders = np.zeros(2 * cut.pairs, dtype=np.int32)
        orders[: cut.buckets] = _lehmer(inverse(ranks), cut)
        yield from pack(orders[cut.pairs :] * np.int32(_ORDERS) + orders[: cut.pairs], _PAIR_BITS)

    def read(self, blob: Blob, at: int, edges: int) -> Iterator[tuple[int, Array]]:
        """The ranks, all at once: (0, (n,) int32). `NotPermutation` or `WrongShape` when the law is broken."""
        yield 0, _decode(blob, at, plan_of(edges))

    def check(self, blob: Blob, at: int, edges: int) -> None:
        """The law, by decoding."""
        _decode(blob, at, plan_of(edges))


ENTROPY = Entropy()


def _lehmer(edges: Array, cut: Plan) -> Array:
    """(buckets,) uint16 indices. edges: (n,) edge ids by rank. Digit i counts the later places of smaller edges."""
    full = np.arange(cut.buckets * EIGHT, dtype=np.int32)  # places that no rank fills: larger ids, in order
    full[: cut.edges] = edges
    columns = np.ascontiguousarray(full.reshape(-1, EIGHT).T)
    code = np.zeros(cut.buckets, dtype=np.uint16)
    for place in range(EIGHT - 1):
        digit = np.zeros(cut.buckets, dtype=np.uint8)
        for later in range(place + 1, EIGHT):
            digit += columns[place] > columns[later]
        code *= np.uint16(EIGHT - place)
        code += digit
    return code


@lru_cache(maxsize=1)
def _places() -> Array:
    """(8!, 8) uint8: the place that the j-th smallest edge of a bucket takes, by Lehmer index."""
    orders = np.array(list(permutations(range(EIGHT))), dtype=np.uint8)  # in order of their Lehmer indices
    places = np.empty_like(orders)
    np.put_along_axis(places, orders.astype(np.intp), np.arange(EIGHT, dtype=np.uint8)[None, :], axis=1)
    return places


def _decode(blob: Blob, at: int, cut: Plan) -> Array:
    bucket = _whole(blob, at, cut.edges, cut.low)
    at += packed_bytes(cut.edges, cut.low)
    if cut.each:
        _add_symbols(bucket, _whole(blob, at, cut.words, cut.word_bits), cut)
        at += packed_bytes(cut.words, cut.word_bits)
    pairs = _whole(blob, at, cut.pairs, _PAIR_BITS)
    orders = np.concatenate([pairs % _ORDERS, pairs // _ORDERS])
    if orders.max() >= _ORDERS:
        wrong = int(np.argmax(orders >= _ORDERS))
        raise NotPermutation(f"bucket {wrong} of {cut.buckets} has the order {orders[wrong]}; there are {_ORDERS}, from 0")
    if orders[cut.buckets :].any():
        raise WrongShape("the spare order beyond the last bucket is not zero")
    if bucket.max() >= cut.buckets:
        wrong = int(np.argmax(bucket >= cut.buckets))
        raise NotPermutation(f"edge {wrong} is in bucket {bucket[wrong]}; the layer has buckets 0 to {cut.buckets - 1}")
    held = np.bincount(bucket, minlength=cut.buckets)
    last = cut.edges - EIGHT * (cut.buckets - 1)
    held[-1] += EIGHT - last
    if (held != EIGHT).any():
        wrong = int(np.argmax(held != EIGHT))
        found = int(held[wrong]) - (EIGHT - last if wrong == cut.buckets - 1 else 0)
        raise NotPermutation(f"bucket {wrong} has {found} edges; {last if wrong == cut.buckets - 1 else EIGHT} belong there")
    places = _places()[orders[: cut.buckets]]
    if last < EIGHT and not np.array_equal(places[-1, last:], np.arange(last, EIGHT)):
        raise NotPermutation(f"the last bucket has {last} edges, but its order moves places beyond them")
    places = places + (np.arange(cut.buckets, dtype=np.int32) * EIGHT)[:, None]
    ranks = np.empty(cut.edges, dtype=np.int32)
    ranks[sorted_places(bucket)] = places.reshape(-1)[: cut.edges]
    return ranks


def _whole(blob: Blob, at: int, count: int, bits: int) -> Array:
    """All numbers that `pack` wrote there, (count,) int32."""
    found = np.empty(count, dtype=np.int32)
    for start, numbers in unpack(blob, at, count, bits):
        found[start : start + len(numbers)] = numbers
    return found


def _add_symbols(bucket: Array, packed: Array, cut: Plan) -> None:
    """Put the symbols of packed words above the low bits of `bucket`, in place."""
    if packed.max() >= cut.letters**cut.each:
        wrong = int(np.argmax(packed >= cut.letters**cut.each))
        raise WrongShape(
            f"word {wrong} is {packed[wrong]}; {cut.each} symbols of {cut.letters} stay below {cut.letters**cut.each}"
        )
    words, letters = packed.astype(np.uint16), np.uint16(cut.letters)
    for number in range(cut.each):
        left = words // letters
        symbols = words - left * letters
        into = bucket[number * cut.words : (number + 1) * cut.words]
        if symbols[len(into) :].any():
            raise WrongShape("spare symbols of the last words are not zero")
        into |= symbols[: len(into)].astype(np.int32) << np.int32(cut.low)
        words = left
