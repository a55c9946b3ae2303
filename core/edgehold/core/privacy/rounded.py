"""The Gaussian of standard deviation 2^32, rounded to the nearest integer: its law, and how random bits become values of it.

An attempt takes 16 random bytes. 64 bits choose one of 208 cells of 2^28 integers (1/16 deviation; 13 deviations in all), by
inverting a cumulative table of 128-bit thresholds: a cell's chance is proportional to exp(-a^2 / 2 s^2), a its first integer.
28 bits choose an integer m of the cell, all equally likely. One bit is the sign; minus zero counts as failed, so that zero is
not counted twice. The attempt is accepted with the chance W(m) / exp(-a^2 / 2 s^2), W(m) proportional to the probability of m;
otherwise it is forgotten and the next one begins.

31 bits are compared with that chance as far as they decide. Where they do not, about once in 2^30 attempts, or where the 64
bits of the cell meet a threshold, the attempt stays "open": it is settled on integers with further bits, so that no rounding of
floating point enters the law. Bit-by-bit comparison of real numbers is von Neumann's (1951); rejection under a step function
with exact uniform bits is how Karney 2016 (arXiv:1303.6257) and Canonne, Kamath, Steinke 2020 (arXiv:2004.00010) proceed too.

The discrete Gaussian, P(m) ~ exp(-m^2 / 2 s^2), would differ from this law by a factor of 1 + (m^2/s^2 - 1) / 24 s^2, at most
1 + 2.3e-19 within 10 deviations. The rounded one is drawn because rounding is post-processing: its accounts are the Gaussian's.
"""

from collections.abc import Callable
from decimal import ROUND_FLOOR, Context, Decimal, localcontext
from itertools import accumulate
from math import factorial

import numpy as np

from edgehold.core import kernels
from edgehold.core.vectors import Array

DEVIATION = 1 << 32
"""Standard deviation before rounding, in units of the integers."""
CELL, CELLS = 1 << 28, 208
ATTEMPT = np.dtype([("coarse", "<u8"), ("fine", "<u4"), ("last", "<u4")])
"""What 16 random bytes are: place in the table; 28 bits of place in the cell, above 4 unused; sign, above 31 bits of chance."""
MORE_BITS = 128
"""Further bits for the chance of an open attempt."""
_DIGITS = Context(prec=70)
_MARGIN = 2.0**-6
"""How near the chance, in units of 2^-31, leaves an attempt open. The series (next term: 0.815^14 / 14! < 2^-40), rounding
(below 2^-48) and the factor between rounded and discrete Gaussian (below 2^-60) are together less than 2^-8 of such a unit."""


def _thresholds() -> tuple[int, ...]:
    """Cumulative chances of the cells in units of 2^-128, each within half a unit; the last is 2^128."""
    with localcontext(_DIGITS):
        sums = list(accumulate((Decimal(-cell * cell) / 512).exp() for cell in range(CELLS)))
        return tuple(int((total / sums[-1] * (1 << 128)).to_integral_value()) for total in sums)


THRESHOLDS = _thresholds()
_EDGES = np.array([min(threshold >> 64, (1 << 64) - 1) for threshold in THRESHOLDS], dtype=np.uint64)
_START = np.searchsorted(_EDGES, np.arange(256, dtype=np.uint64) << np.uint64(56)).astype(np.uint8)
_SERIES = np.array([(-1) ** power / factorial(power) for power in reversed(range(14))])


def made(attempts: Array, out: Array) -> tuple[int, int, bool]:
    """Fill `out` from the front: attempts used, values made, and whether the next attempt stays open.

    attempts: (n,) of `ATTEMPT`, contiguous; out: (want,) int64, contiguous. The kernel and NumPy give the same.
    """
    compiled = kernels.loaded()
    if compiled is not None:
        return compiled.gauss(attempts, (_EDGES, _START, _SERIES), out)
    attempts = attempts[: len(out) + len(out) // 16 + 16]  # 97 of 100 are accepted
    cells = np.searchsorted(_EDGES, attempts["coarse"])
    fine = (attempts["fine"] >> 4).astype(np.int64)
    sizes = cells * CELL + fine
    within = fine * 2.0**-28
    exponent = within * (2.0 * cells + within) * 2.0**-9
    power = np.full(len(attempts), _SERIES[0])
    for coefficient in _SERIES[1:]:
        power = power * exponent + coefficient
    above = power * 2.0**31 - (attempts["last"] & 0x7FFFFFFF)
    open_ = (above > -_MARGIN) & (above < 1 + _MARGIN) | (_EDGES[cells] == attempts["coarse"]) | (sizes == 0)
    first = int(open_.argmax()) if open_.any() else len(attempts)
    accepted = np.flatnonzero(above[:first] >= 1 + _MARGIN)[: len(out)]
    values = sizes[accepted]
    out[: len(accepted)] = np.where(attempts["last"][accepted] >> 31, -values, values)
    if len(accepted) == len(out):
        return int(accepted[-1]) + 1 if len(out) else 0, len(out), False
    return first, len(accepted), first < len(attempts)


def settled(attempt: Array, more: Callable[[int], bytes]) -> int | None:
    """The value of one open attempt, or None where it fails. more: gives that many further random bytes."""
    coarse, fine, last = (int(attempt[name]) for name in ("coarse", "fine", "last"))
    place = coarse << 64 | int.from_bytes(more(8), "little")
    cell = sum(threshold <= place for threshold in THRESHOLDS)
    size, minus = cell * CELL + (fine >> 4), last >> 31
    chance = (last & 0x7FFFFFFF) << MORE_BITS | int.from_bytes(more(MORE_BITS // 8), "little")
    if chance >= accepted_below(size) or (minus and size == 0):
        return None
    return -size if minus else size


def accepted_below(size: int) -> int:
    """Chance with which an attempt at the integer `size` >= 0 is accepted, in units of 2^-159, rounded down.

    The probability of m is the integral of exp(-(m + u)^2 / 2 s^2) over u from -1/2 to 1/2: exp(-m^2 / 2 s^2) times
    1 + (m^2 / s^2 - 1) / 24 s^2, but for a relative error below 15 / 2^128 as |m| < 13 s. All are divided by 1 + 8 / s^2, which
    that factor nowhere exceeds, so that no chance is above one.
    """
    first = size // CELL * CELL
    square = DEVIATION * DEVIATION
    with localcontext(_DIGITS):
        chance = (Decimal(first * first - size * size) / (2 * square)).exp()
        chance *= (1 + (Decimal(size * size) / square - 1) / (24 * square)) / (1 + Decimal(8) / square)
        return int((chance * (1 << (31 + MORE_BITS))).to_integral_value(rounding=ROUND_FLOOR))
