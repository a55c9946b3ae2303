"""Products of a kernel matrix with vectors, and its largest eigenvalue; the matrix itself need never be whole in memory."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from edgehold.core.vectors import blocks
from edgehold.defenses.floral.projection import Array

KEPT_BYTES = 1 << 28
"""A matrix of at most so many bytes is worked out once and kept: n = 5,792."""
_ROWS = 1024
_POWERS = 60


class Kernel(Protocol):
    """A positive semidefinite matrix over n records."""

    def __len__(self) -> int:
        """n."""

    def product(self, vectors: Array) -> Array:
        """K @ vectors, (n, c)."""


class FeatureKernel:
    """K = Phi Phi'. phi: (n, m) float64. A product costs 2 n m c multiplications and no n x n numbers."""

    def __init__(self, phi: Array) -> None:
        self.phi = phi

    def __len__(self) -> int:
        return len(self.phi)

    def product(self, vectors: Array) -> Array:
        """See `Kernel`."""
        return np.asarray(self.phi @ (self.phi.T @ vectors))


class RbfKernel:
    """K_ij = exp(-gamma |x_i - x_j|^2). x: (n, d). kept: bytes up to which the matrix stays in memory; above, rows are worked
    out anew at each product, some at a time.
    """

    def __init__(self, x: Any, gamma: float, kept: int = KEPT_BYTES) -> None:
        self._x, self._gamma = np.asarray(x, dtype=np.float64), gamma
        fits = 8 * len(self._x) ** 2 <= kept
        self._whole = rbf(self._x, self._x, gamma) if fits else None

    def __len__(self) -> int:
        return len(self._x)

    def rows(self) -> Iterator[tuple[slice, Array]]:
        """Blocks of rows."""
        for start, stop in blocks(len(self._x), _ROWS):
            part = slice(start, stop)
            yield part, rbf(self._x[part], self._x, self._gamma) if self._whole is None else self._whole[part]

    def product(self, vectors: Array) -> Array:
        """See `Kernel`."""
        out = np.empty((len(self._x), vectors.shape[1]))
        for part, block in self.rows():
            out[part] = block @ vectors
        return out


def rbf(x: Any, other: Any, gamma: float) -> Array:
    """(n, m) with exp(-gamma |x_i - other_j|^2). x: (n, d); other: (m, d)."""
    x, other = np.asarray(x, dtype=np.float64), np.asarray(other, dtype=np.float64)
    apart = np.square(x).sum(1)[:, None] + np.square(other).sum(1) - 2 * (x @ other.T)
    return np.asarray(np.exp(-gamma * np.maximum(apart, 0.0)))


def largest_eigenvalue(kernel: Kernel) -> float:
    """By sixty powers, from the vector of ones: at most the true value, and near it. The spectrum of K * outer(y, y) is the
    same for all labels y.
    """
    vector = np.full((len(kernel), 1), 1 / np.sqrt(len(kernel)))
    value = 0.0
    for _ in range(_POWERS):
        vector = kernel.product(vector)
        value = float(np.sqrt(np.square(vector).sum()))
        if value == 0.0:
            return 0.0
        vector /= value
    return value
