"""Directions q in which L q has uncommonly many zeros: found by descent from many starts at once, then polished until exact.

Rows are those of L scaled to length 1, (m, rank); directions are columns of length 1, (rank, some); limits, (m, 1), say below
what a value counts as zero.
"""

import numpy as np

from edgehold.core.vectors import Array

STEPS, FIRST_STEP, DECAY = 150, 0.1, 0.97
POLISHES, WIDTH, NARROWER = 12, 0.03, 0.3
POOREST = 5
"""Directions of fewest zeros that may hide a record much like another."""


def corner(rows: Array, heard: Array, rng: np.random.Generator) -> Array:
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


def directions(rows: Array, avoid: Array, limit: float, rng: np.random.Generator) -> Array:
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
    q = back @ _descended(even, unit(starts))
    return _polished(rows, apart(unit(q), 0.9999), limit)


def between(rows: Array, basis: Array, limits: Array) -> Array:
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
    return unit(np.array(found).reshape(-1, basis.shape[0]).T)


def settled(rows: Array, q: Array, limits: Array) -> Array:
    """Each direction once more, from all rows that vanish on it; those on which too few do to tell are left out."""
    if rows.shape[1] == 1:
        return q
    kept = []
    for column in q.T:
        off = np.abs(rows @ column) <= 3 * limits[:, 0]
        if off.sum() >= max(rows.shape[1] - 1, 1):
            kept.append(np.linalg.eigh(rows[off].T @ rows[off])[1][:, 0])
    return np.array(kept).reshape(-1, rows.shape[1]).T


def zeros(rows: Array, pool: Array, limits: Array) -> Array:
    """How many rows vanish on each direction."""
    return np.asarray((np.abs(rows @ pool) <= limits).sum(axis=0))


def basis_of(pool: Array, zeros: Array) -> Array:
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


def apart(pool: Array, alike: float) -> Array:
    """Columns that are not one of those before them up to sign."""
    return np.asarray(pool[:, ~np.triu(np.abs(pool.T @ pool) > alike, 1).any(axis=0)])


def unit(q: Array) -> Array:
    """Columns of length 1."""
    return np.asarray(q / np.maximum(np.linalg.norm(q, axis=0), 1e-300))


def _evened(rows: Array) -> tuple[Array, Array]:
    """Rows as far apart as a change of basis makes them, and the matrix that takes their directions back.

    Without it, directions away from where most rows point have a small l1 norm and no zeros. Source: Tyler 1987.
    """
    rank, even, back = rows.shape[1], rows, np.eye(rows.shape[1])
    for _ in range(30):
        sizes, axes = np.linalg.eigh(even.T @ even * (rank / len(even)))
        turn = (axes / np.sqrt(np.maximum(sizes, 1e-6))) @ axes.T
        even, back = unit((even @ turn).T).T, back @ turn
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
