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

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array

QUIET = (0.5, 0.65, 0.4, 0.8, 1.01)
"""Units that so many of public records switch on are left out of the search, in turns."""
STEPS, FIRST_STEP, DECAY = 150, 0.1, 0.97
POLISHES, WIDTH, NARROWER = 12, 0.03, 0.3
ROUNDS = 12
POOREST = 5
"""Directions of fewest zeros that may hide a record much like another."""
AGREES = 0.99
"""Share of units on which a record's own forward pass must agree with the zeros it was found by."""
LARGEST = 0.2
"""Of a row's size: no value above it counts as a zero, however loud the noise."""
SPARE = 8
"""Columns beyond the batch, which show how much of the gradient is noise."""


@dataclass(frozen=True, slots=True)
class Found:
    """inputs: (rank, n) float64; agreement: (rank,) share of the units in use that each record's own forward pass explains.

    slopes: (rank, m) each record's own dL/d(output), found along with it. rank: records that stand out of the noise.
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
        within = _corner(rows, heard, rng) if number % 3 == 2 else np.eye(len(right))
        inner = rows @ within
        felt = np.linalg.norm(inner, axis=1) > limits[:, 0]
        quiet = felt & (heard < QUIET[number % len(QUIET)])
        avoid = within.T @ pool[:, _basis(pool, _zeros(rows, pool, limits))] if number % 3 == 1 else pool[:, :0]
        found = within @ _directions(_unit(inner[quiet].T).T, avoid[:, : len(right) - 1], float(np.median(limits)), rng)
        pool = _apart(np.concatenate([pool, _settled(rows, found, limits)], axis=1), 1 - 1e-8)
        chosen = _basis(pool, _zeros(rows, pool, limits))
        # A record much like another hides in its difference from it.
        pool = _apart(np.concatenate([pool, _settled(rows, _between(rows, pool[:, chosen], limits), limits)], axis=1), 1 - 1e-8)
        chosen = _basis(pool, _zeros(rows, pool, limits))
        if len(chosen) < len(right):
            continue
        solved = _solved(left, right, pool[:, chosen], bias)
        off = np.abs(rows @ pool[:, chosen]) <= limits
        on = solved.inputs @ matrix[alive].T + offset[alive] > 0
        best = _better(best, Found(solved.inputs, (off != on.T).mean(axis=0), solved.slopes))
        if best.exact == len(right):
            break
    return best or Found(np.zeros((0, weight.shape[1])), np.zeros(0), np.zeros((0, weight.shape[0])))


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


def _corner(rows: Array, heard: Array, rng: np.random.Generator) -> Array:
    """(rank, fewer): the directions of records that leave every one of the quietest units off, for some threshold of quiet.

    Records near the average never switch quiet units on, so that only the loud ones tell them apart: few records, then.
    """
    rank = rows.shape[1]
    order = np.argsort(heard + 1e-6 * rng.random(len(heard)))
    for share in rng.permutation([0.1, 0.15, 0.2, 0.25, 0.3, 0.4]):
        quietest = rows[order[: max(rank, int(share * len(order)))]]
        sizes, axes = np.linalg.eigh(quietest.T @ quietest)
        empty = int((sizes < 1e-8 * sizes[-1]).sum())
        if empty:
            return np.asarray(axes[:, :empty])
    return np.eye(rank)


def _directions(rows: Array, avoid: Array, limit: float, rng: np.random.Generator) -> Array:
    """(rank, some) unit columns in which many of `rows` vanish. avoid: directions that starts keep away from."""
    rank = rows.shape[1]
    if rank == 1:
        return np.ones((1, 1))
    if len(rows) < rank:
        return np.zeros((rank, 0))
    even, back = _evened(rows)
    starts = even[rng.choice(len(even), min(len(even), max(96, 4 * rank)), replace=False)].T
    if avoid.shape[1]:
        span, _ = np.linalg.qr(np.linalg.solve(back, avoid))
        starts = starts - span @ (span.T @ starts)
    q = back @ _descended(even, _unit(starts))
    return _polished(rows, _apart(_unit(q), 0.9999), limit)


def _evened(rows: Array) -> tuple[Array, Array]:
    """Rows as far apart as a change of basis makes them, and the matrix that takes their directions back.

    Without it, directions away from where most rows point have a small l1 norm and no zeros. Source: Tyler 1987.
    """
    rank, even, back = rows.shape[1], rows, np.eye(rows.shape[1])
    for _ in range(30):
        sizes, axes = np.linalg.eigh(even.T @ even * (rank / len(even)))
        turn = (axes / np.sqrt(np.maximum(sizes, 1e-6))) @ axes.T
        even, back = _unit((even @ turn).T).T, back @ turn
        back /= np.linalg.norm(back)
    return even, back


def _descended(rows: Array, q: Array) -> Array:
    """Projected subgradient steps on the l1 norm of rows @ q, every column on its own unit sphere."""
    small, q, step = rows.astype(np.float32), q.astype(np.float32), np.float32(FIRST_STEP)
    for _ in range(STEPS):
        slope = small.T @ np.sign(small @ q)
        slope -= q * (q * slope).sum(axis=0)
        slope /= np.linalg.norm(slope, axis=0) + np.float32(1e-12)
        q = q - step * slope
        q /= np.linalg.norm(q, axis=0) + np.float32(1e-12)
        step *= np.float32(DECAY)
    return q.astype(np.float64)


def _polished(rows: Array, q: Array, limit: float) -> Array:
    """Smallest singular vectors of the rows, weighted by how nearly they vanish, until zeros are zeros."""
    rank, width = rows.shape[1], WIDTH
    products = (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), rank * rank)
    for _ in range(POLISHES):
        values = rows @ q
        weights = width * width / (values * values + width * width)
        q = np.linalg.eigh((weights.T @ products).reshape(-1, rank, rank))[1][:, :, 0].T
        width = max(NARROWER * width, limit)
    return q


def _between(rows: Array, basis: Array, limits: Array) -> Array:
    """In the plane of each direction with one of the sparsest few: the further direction on which most rows vanish."""
    found = []
    values = rows @ basis
    for poor in range(max(1, basis.shape[1] - POOREST), basis.shape[1]):
        used = np.abs(values[:, poor]) > 30 * limits[:, 0]
        for other in range(poor):
            turns = np.sort(-values[used, other] / values[used, poor])
            turns = turns[np.abs(turns) > 1e-4]
            if len(turns) < 2:
                continue
            reach = np.searchsorted(turns, turns + 1e-6 * np.abs(turns)) - np.arange(len(turns))
            at = int(np.argmax(reach))
            if reach[at] >= 4:
                found.append(basis[:, other] + turns[at + reach[at] // 2] * basis[:, poor])
    return _unit(np.array(found).reshape(-1, basis.shape[0]).T)


def _settled(rows: Array, q: Array, limits: Array) -> Array:
    """Each direction once more, from all rows that vanish on it; those on which too few do to tell are left out."""
    if rows.shape[1] == 1:
        return q
    kept = []
    for column in q.T:
        off = np.abs(rows @ column) <= 3 * limits[:, 0]
        if off.sum() >= max(rows.shape[1] - 1, 1):
            kept.append(np.linalg.eigh(rows[off].T @ rows[off])[1][:, 0])
    return np.array(kept).reshape(-1, rows.shape[1]).T


def _zeros(rows: Array, pool: Array, limits: Array) -> Array:
    return np.asarray((np.abs(rows @ pool) <= limits).sum(axis=0))


def _solved(left: Array, right: Array, directions: Array, bias: Array) -> Found:
    """Scale and records that belong to a whole basis of directions."""
    per_record = left @ directions
    scale, *_ = np.linalg.lstsq(per_record, bias, rcond=None)
    scale = np.where(scale == 0, 1.0, scale)
    return Found(np.linalg.solve(directions * scale, right), np.zeros(len(right)), (per_record * scale).T)


def _better(one: Found | None, other: Found) -> Found:
    better = one is None or (other.exact, other.agreement.sum()) > (one.exact, one.agreement.sum())
    return other if one is None or better else one


def _unit(q: Array) -> Array:
    return np.asarray(q / np.maximum(np.linalg.norm(q, axis=0), 1e-300))


def _apart(pool: Array, alike: float) -> Array:
    """Columns that are not one of those before them up to sign."""
    return np.asarray(pool[:, ~np.triu(np.abs(pool.T @ pool) > alike, 1).any(axis=0)])


def _basis(pool: Array, zeros: Array) -> Array:
    """Indices of the basis with most zeros, those of most first: greedy, which is best for independent columns."""
    chosen: list[int] = []
    span = np.zeros((pool.shape[0], 0))
    for at in np.argsort(-zeros, kind="stable"):
        rest = pool[:, at] - span @ (span.T @ pool[:, at])
        rest -= span @ (span.T @ rest)
        size = float(np.linalg.norm(rest))
        if size > 1e-3:
            chosen.append(int(at))
            span = np.concatenate([span, rest[:, None] / size], axis=1)
        if len(chosen) == pool.shape[0]:
            break
    return np.array(chosen, int)
