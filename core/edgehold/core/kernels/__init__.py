"""The few loops that NumPy cannot run at the speed of the memory, in C, each with slower NumPy code beside its use. Sorts and
sums give the same bits as that; products and mixtures the same within the rounding that their docstrings tell.

The libraries are made when the package is installed (`hatch_build.py`), where there is a C compiler. Without them, or with
EDGEHOLD_KERNELS=off in the environment, `loaded()` is None and everything runs on NumPy. Calls release the interpreter.
"""

import ctypes
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array, FloatArray

SWITCH = "EDGEHOLD_KERNELS"
_SETS = ("x86-64-v4", "x86-64-v3", "plain")
"""Instruction sets, the widest first; each includes those behind it."""
_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES = {
    "ordered_mean": (_POINTER, _COUNT, _COUNT, _POINTER, _COUNT, _COUNT, _COUNT, _COUNT, _POINTER),
    "combined": (_POINTER, _POINTER, _COUNT, _COUNT, _POINTER),
    "gauss": (_POINTER, _COUNT, _POINTER, _POINTER, _POINTER, _COUNT, _POINTER, _POINTER),
    "gram": (_POINTER, _COUNT, _COUNT, _COUNT, _POINTER),
    "mixed": (_POINTER, _COUNT, _POINTER, _COUNT, _COUNT, _POINTER),
    "subset_sums": (_POINTER, _COUNT, _POINTER, _POINTER, _COUNT, _COUNT, _POINTER),
}
Rows = Sequence[FloatArray]
"""Rows of one length, each (w,) float32 and contiguous, at any address."""


class Kernels:
    """One compiled library. name: its instruction set."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name = name
        self._library = library
        for function, arguments in _SIGNATURES.items():
            getattr(library, function).argtypes = arguments

    def ordered_mean(self, rows: Rows, network: Array | None, lo: int, hi: int, keep: int) -> Array:
        """Per column the mean of the values of ranks lo..hi-1, or with keep > 0 of the `keep` nearest the median, (w,) float64.

        network: (comparisons, 2) int32; it must order the ranks that are looked at; None: all are sorted. Of two equally near
        the smaller counts.
        """
        out, comparisons = np.empty(_width(rows)), -1 if network is None else len(network)
        pairs = 0 if network is None else network
        self._call("ordered_mean", _pointers(rows), len(rows), len(out), pairs, comparisons, lo, hi, keep, out)
        return out

    def combined(self, rows: Rows, shares: Array) -> Array:
        """Sum of shares[i] * rows[i], (w,) float64, added up row after row. shares: (n,) float64."""
        out = np.empty(_width(rows))
        self._call("combined", _pointers(rows), shares, len(rows), len(out), out)
        return out

    def gram(self, rows: Rows, centre: int, origin: bool) -> Array:
        """Inner products about row `centre` of the rows and, with `origin`, of the origin as one more; float64, symmetric.

        Products run in float32 and go on in float64 after 64 of them: about row `centre` every entry is within 4e-6 of the
        product of the two norms; seen: 3e-9 for random numbers, 3e-7 for multiples of one step, where sums round to even.
        """
        (out,) = self._grams(rows, centre, max(1, _width(rows)), origin)
        return np.asarray(np.triu(out) + np.triu(out, 1).T)

    def grams(self, rows: Rows, centre: int, piece: int) -> Array:
        """As `gram` with the origin, for every `piece` columns apart: (pieces, n + 1, n + 1), of which only the upper triangles
        are filled."""
        return self._grams(rows, centre, piece, origin=True)

    def _grams(self, rows: Rows, centre: int, piece: int, origin: bool) -> Array:
        n, width = len(rows) + origin, _width(rows)
        out = np.zeros((max(1, -(-width // piece)), n, n))
        pointers = np.zeros(n, dtype=np.uintp)
        pointers[: len(rows)] = _pointers(rows)
        for number, start in enumerate(range(0, width, piece)):
            self._call("gram", pointers, n, min(piece, width - start), centre, out[number])
            pointers[: len(rows)] += np.uintp(4 * piece)
        return out

    def mixed(self, rows: Rows, mix: Array, out: Rows) -> None:
        """out[r] = sum of mix[r, i] * rows[i], added up in float64. mix: (m, n) float64; out: m rows."""
        self._call("mixed", _pointers(rows), len(rows), np.ascontiguousarray(mix), len(mix), _width(rows), _pointers(out))

    def subset_sums(self, rows: Rows, members: Array, scale: Array, out: Rows) -> None:
        """out[r] = scale[r] * sum of the rows that belong to subset r, added up in float64.

        members: (m, groups) uint8 as `subsets` gives them; scale: (m,) float64; out: m rows.
        """
        if members.shape[1] != -(-len(rows) // _TOGETHER):
            raise ValueError(f"subsets of {_TOGETHER * members.shape[1]} rows, but there are {len(rows)}")
        pointers = _pointers(rows), len(rows), members, scale, len(members), _width(rows), _pointers(out)
        self._call("subset_sums", *pointers)

    def gauss(self, attempts: Array, table: Sequence[Array], out: Array) -> tuple[int, int, bool]:
        """Values of the rounded Gaussian from the front of `attempts`: how many attempts were used, how many values they made,
        and whether the next attempt is one that stays open. What the three mean stands in `edgehold.core.privacy.rounded`.

        attempts: contiguous, 16 bytes each; table: edges (cells,) uint64, first cells (256,) uint8, series (14,) float64;
        out: int64, contiguous, no more values are made than fit.
        """
        edges, start, series = table
        told = np.empty(3, np.int64)
        self._call("gauss", attempts, len(attempts), edges, start, series, len(out), out, told)
        return int(told[0]), int(told[1]), bool(told[2])

    def __reduce__(self) -> tuple[Any, ...]:
        return named, (self.name,)  # the same instructions in another process: others round otherwise

    def _call(self, function: str, *arguments: Array | int) -> None:
        failed = getattr(self._library, function)(*(x.ctypes.data if isinstance(x, np.ndarray) else x for x in arguments))
        if failed:
            raise MemoryError(f"no memory left for {function}")


_TOGETHER = 4


def subsets(belongs: Array) -> Array:
    """Which rows belong to which subset, (m, n) bool, as `Kernels.subset_sums` takes it."""
    m, n = belongs.shape
    padded = np.zeros((m, -(-n // _TOGETHER), _TOGETHER), dtype=np.uint8)
    padded.reshape(m, -1)[:, :n] = belongs
    return np.asarray((padded << np.arange(_TOGETHER, dtype=np.uint8)).sum(axis=2, dtype=np.uint8))


def _pointers(rows: Rows) -> Array:
    if any(row.dtype != np.float32 or row.ndim != 1 or len(row) != len(rows[0]) or row.strides != (4,) for row in rows):
        raise ValueError("kernels take contiguous float32 rows of one length")
    return np.array([row.__array_interface__["data"][0] for row in rows], dtype=np.uintp)


def _width(rows: Rows) -> int:
    return len(rows[0]) if rows else 0


def loaded() -> Kernels | None:
    """The kernels for the widest vectors of this processor, or None where there are none or they are switched off."""
    return None if os.environ.get(SWITCH) == "off" else next(iter(every()), None)


def named(name: str) -> Kernels:
    """Those for that instruction set; `ConfigError` where this machine has none."""
    for one in every():
        if one.name == name:
            return one
    raise ConfigError(
        f"no kernels for {name} here; machines that share a round's blocks need the same ones: install edgehold with a C"
        f" compiler on a processor that has {name}, or set {SWITCH}=off everywhere"
    )


@lru_cache(maxsize=1)
def every() -> tuple[Kernels, ...]:
    """All that were compiled and that this processor can run, the widest first; empty where nothing was compiled."""
    folder = Path(__file__).parent
    try:
        plain = ctypes.CDLL(str(folder / "kernels-plain.so"))
        plain.widest.restype = ctypes.c_char_p
        paths = {name: folder / f"kernels-{name}.so" for name in _SETS[_SETS.index(plain.widest().decode()) :]}
        return tuple(Kernels(ctypes.CDLL(str(path)), name) for name, path in paths.items() if path.exists())
    except OSError:
        return ()  # never compiled, or for another machine
