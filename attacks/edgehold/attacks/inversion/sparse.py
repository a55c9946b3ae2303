"""Every record of a batch behind a fully connected layer with a ReLU, from that layer's gradient alone.

dL/dW = G X with one column of G and one row of X per record, and every column of G is exactly 0 where the record leaves a unit
off. dW = L R fixes G = L Q up to an invertible Q, so that the columns of G are the directions q in which L q has uncommonly
many zeros. Once they are found, dL/db = G 1 gives their scale, and X follows.
Source: Dimitrov et al. 2024, arXiv:2403.03945 (SPEAR); Bakarsky et al. 2025, arXiv:2510.24200. Departures: directions are found
by descent on the l1 norm and reweighted singular vectors, all starts at once, instead of by drawing submatrices until one fits;
it runs over quiet units alone, which few records switch on: in the others, records of one label hardly differ, and their
differences look sparser than they are.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from edgehold.attacks.inversion.sparse_directions import apart, basis_of, between, corner, directions, settled, unit, zeros
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array

QUIET = (0.5, 0.65, 0.4, 0.8, 1.01)
"""Units that so many of public records switch on are left out of the search, in turns."""
ROUNDS = 12
AGREES = 0.99
"""Share of units on which a record's own forward pass must agree with the zeros it was found by."""
LARGEST = 0.2
"""Of a row's size: no value above it counts as a zero, however loud the noise."""
SPARE = 8
"""Columns beyond the batch, which show how much of the gradient is noise."""


@dataclass(frozen=True, slots=True)
class Found:
    """inputs: (rank, n) float64; agreement: (rank,) share of the units in use that each record's own forward pass explains.

    slopes: (rank, m) each record's own dL/d(output), found along with it. rank: how many records stand out of the noise.
    """

    inputs: Array
    agreement: Array
    slopes: Array

    @property
    def exact(self) -> int:
        """Records that explain themselves: told without the truth."""
        return int((self.agreement >= AGREES).sum())


def invert(
    slopes: tuple[Array, Array], layer: tuple[Array, Array], records: int, rng: np.random.Generator, public: Array | None = None
) -> Found:
    """slopes: dL/dW (m, n) and dL/db (m,) over the batch; layer: W and b as they were; records: how many made the gradient.

    public: (any, n) records like those wanted, which tell the quiet units; None: all units are searched, for small batches.
    Of a gradient of lower rank (a record that leaves every unit off, or the same one twice) as many inputs as its rank come
    back. `ConfigError` when there are as many records as units or inputs.
    """
    weight, bias = (np.asarray(part, np.float64) for part in slopes)
    if not 1 <= records < min(weight.shape):
        raise ConfigError(f"{records} records behind a layer of {weight.shape}: at least one, and fewer than units and inputs")
    if not weight.any() or not np.isfinite(weight).all():
        return Found(np.zeros((0, weight.shape[1])), np.zeros(0), np.zeros((0, weight.shape[0])))
    matrix, offset = (np.asarray(part, np.float64) for part in layer)
    left, right, noise = _factors(weight, records, rng)
    sizes = np.linalg.norm(left, axis=1)
    alive = sizes > max(20 * noise, 1e-9)
    if alive.sum() < len(right):  # all of it is noise; whoever searches there finds some of that
        alive = sizes > 0
    rows = left[alive] / sizes[alive, None]
    limits = np.clip(12 * noise / sizes[alive], 1e-9, LARGEST)[:, None]
    heard = np.zeros(len(rows)) if public is None else _heard(matrix[alive], offset[alive], public)
    pool, best = np.zeros((len(right), 0)), None
    for number in range(ROUNDS):
        within = corner(rows, heard, rng) if number % 3 == 2 else np.eye(len(right))
        inner = rows @ within
        quiet = (np.linalg.norm(inner, axis=1) > limits[:, 0]) & (heard < QUIET[number % len(QUIET)])
        # What is found pulls starts towards itself: every third time, look where it is not.
        avoid = within.T @ pool[:, basis_of(pool, zeros(rows, pool, limits))] if number % 3 == 1 else pool[:, :0]
        found = within @ directions(unit(inner[quiet].T).T, avoid[:, : len(right) - 1], float(np.median(limits)), rng)
        pool = _more(rows, pool, found, limits)
        # A record much like another hides in its difference from it.
        found = between(rows, pool[:, basis_of(pool, zeros(rows, pool, limits))], limits)
        pool = _more(rows, pool, found, limits)
        chosen = basis_of(pool, zeros(rows, pool, limits))
        if len(chosen) < len(right):
            continue
        solved = _solved(left, right, pool[:, chosen], bias)
        off = np.abs(rows @ pool[:, chosen]) <= limits
        on = solved.inputs @ matrix[alive].T + offset[alive] > 0
        best = _better(best, Found(solved.inputs, (off != on.T).mean(axis=0), solved.slopes))
        if best.exact == len(right):
            break
    return best or Found(np.zeros((0, weight.shape[1])), np.zeros(0), np.zeros((0, weight.shape[0])))


def _more(rows: Array, pool: Array, found: Array, limits: Array) -> Array:
    """The pool with what was found, settled, and nothing twice."""
    return apart(np.concatenate([pool, settled(rows, found, limits)], axis=1), 1 - 1e-8)


def _factors(weight: Array, records: int, rng: np.random.Generator) -> tuple[Array, Array, float]:
    """L (m, rank) orthonormal, R (rank, n), how far entries of L are off. A random range finder: exact where the rank is."""
    wide = min(records + SPARE, *weight.shape)
    rough, _ = np.linalg.qr(weight @ rng.standard_normal((weight.shape[1], wide)))
    basis, _ = np.linalg.qr(weight @ (weight.T @ rough))  # once more, for what lies in noise
    inner, sizes, right = np.linalg.svd(basis.T @ weight, full_matrices=False)
    floor = max(float(sizes[records]) if wide > records else 0.0, 1e-14 * float(sizes[0]))
    rank = max(1, int((sizes[:records] > 4 * floor).sum()))
    # Noise of deviation s per entry has singular values of about s (sqrt(m) + sqrt(n)), and moves entries of L by s / size.
    noise = floor / (sqrt(weight.shape[0]) + sqrt(weight.shape[1])) / float(sizes[rank - 1])
    return basis @ inner[:, :rank], sizes[:rank, None] * right[:rank], noise


def _heard(matrix: Array, offset: Array, public: Array) -> Array:
    """Share of the public records that switch each unit on."""
    flat = np.asarray(public, np.float64).reshape(len(public), -1)
    return np.asarray((flat @ matrix.T + offset > 0).mean(axis=0))


def _solved(left: Array, right: Array, directions: Array, bias: Array) -> Found:
    """Scale and records that belong to a whole basis of directions."""
    per_record = left @ directions
    scale, *_ = np.linalg.lstsq(per_record, bias, rcond=None)
    scale = np.where(scale == 0, 1.0, scale)
    return Found(np.linalg.solve(directions * scale, right), np.zeros(len(right)), (per_record * scale).T)


def _better(one: Found | None, other: Found) -> Found:
    better = one is None or (other.exact, other.agreement.sum()) > (one.exact, one.agreement.sum())
    return other if one is None or better else one
