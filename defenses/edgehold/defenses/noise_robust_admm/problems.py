"""A device's own problem: least squares in closed form, logistic regression by Newton steps. Float64 throughout.

f(x) = weight * sum over records of 0.5 (y - h'x)^2, or of log(1 + exp(-y h'x)) with y = -1 or 1. What a device solves in a
round is the proximal step argmin f(x) - <linear, x> + rho/2 |x - centre|^2.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.tables import TableTask, train_records
from edgehold.defenses.noise_robust_admm.state import Doubles


class Problem(Protocol):
    """A convex loss of n weights."""

    @property
    def curvature(self) -> float:
        """Mean eigenvalue of the second derivative at 0; `ConfigError` where nobody knows it."""

    def gradient(self, x: Doubles) -> Doubles:
        """Of f at x, (n,)."""

    def prox(self, centre: Doubles, linear: Doubles, rho: float, start: Doubles) -> Doubles:
        """argmin f(x) - <linear, x> + rho/2 |x - centre|^2, (n,). start: where an iteration begins."""

    def moved(self, x: Doubles, p: Doubles, rho: float, times: int = 1) -> Doubles:
        """x after so many steps argmin f(x) - <grad f(x before), x> + rho/2 |x - p|^2, (n,); for least squares each of them is
        x + rho (A + rho I)^-1 (p - x).
        """


@dataclass(eq=False)
class Quadratic:
    """A = weight H'H, (n, n); b = weight H'y, (n,).

    Solved in the eigenvectors of A, found once. For 128 weights and 54 records a step takes 9 microseconds there, 7 with an
    explicit inverse, whose residual is a hundred thousand times larger where rho is small beside A; and neither another rho nor
    any number of missed rounds needs another factor. Kept with the task in memory, never with the local state: n^2 numbers
    would go to disk in every round to save the two milliseconds of finding them again.
    """

    a: Doubles
    b: Doubles

    @property
    def curvature(self) -> float:
        """tr(A) / n."""
        return float(np.trace(self.a)) / len(self.a)

    @cached_property
    def spectrum(self) -> tuple[Doubles, Doubles, Doubles, Doubles]:
        """Eigenvalues above rounding (r,), their eigenvectors as rows (r, n) and as columns (n, r), b in them (r,)."""
        values, basis = np.linalg.eigh(self.a)
        kept = values > len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
        rows = np.ascontiguousarray(basis[:, kept].T)
        return values[kept], rows, np.ascontiguousarray(rows.T), rows @ self.b

    def gradient(self, x: Doubles) -> Doubles:
        """A x - b."""
        return np.asarray(self.a @ x - self.b)

    def prox(self, centre: Doubles, linear: Doubles, rho: float, start: Doubles) -> Doubles:
        """(A + rho I)^-1 (b + linear + rho centre)."""
        values, rows, columns, data = self.spectrum
        w = centre + linear / rho
        return np.asarray(w + columns @ ((data - values * (rows @ w)) / (values + rho)))

    def moved(self, x: Doubles, p: Doubles, rho: float, times: int = 1) -> Doubles:
        """p + (I - rho (A + rho I)^-1)^times (x - p): the data are in x alone."""
        if not times:
            return x
        values, rows, columns, _ = self.spectrum
        return np.asarray(p + columns @ ((values / (values + rho)) ** times * (rows @ (x - p))))


@dataclass
class Logistic:
    """h: (records, n); signs: (records,), -1 or 1. tolerance, most: see `Training`."""

    h: Doubles
    signs: Doubles
    weight: float
    tolerance: float
    most: int

    @property
    def curvature(self) -> float:
        """weight / 4 of the mean square of h, summed over the records."""
        return float(self.weight * np.square(self.h).sum() / (4 * self.h.shape[1]))

    def gradient(self, x: Doubles) -> Doubles:
        """-weight sum y h / (1 + exp(y h'x))."""
        return np.asarray(-self.weight * (self.h.T @ (self.signs * _below(self.signs * (self.h @ x)))))

    def prox(self, centre: Doubles, linear: Doubles, rho: float, start: Doubles) -> Doubles:
        """Damped Newton steps from `start`: rho makes the problem strongly convex, halving keeps each step a descent."""
        x = start
        for _ in range(self.most):
            slope = self.gradient(x) - linear + rho * (x - centre)
            if np.linalg.norm(slope) <= self.tolerance * rho * np.linalg.norm(x - centre):
                break
            share = _below(self.h @ x)
            curvature = self.weight * (self.h.T * (share * (1 - share))) @ self.h + rho * np.eye(len(x))
            step, size, here = np.linalg.solve(curvature, slope), 1.0, self._value(x, centre, linear, rho)
            while self._value(x - size * step, centre, linear, rho) > here and size > 1e-6:
                size /= 2
            x = x - size * step
        return np.asarray(x)

    def moved(self, x: Doubles, p: Doubles, rho: float, times: int = 1) -> Doubles:
        """One after the other; the gradient is that of all records, since one of a few would move the solution."""
        for _ in range(times):
            x = self.prox(p, self.gradient(x), rho, x)
        return x

    def _value(self, x: Doubles, centre: Doubles, linear: Doubles, rho: float) -> float:
        losses = np.logaddexp(0.0, -self.signs * (self.h @ x))
        return float(self.weight * losses.sum() - linear @ x + rho / 2 * np.square(x - centre).sum())


def _below(margins: Doubles) -> Doubles:
    """1 / (1 + exp(margin)), without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, margins)))


_QUADRATIC: WeakKeyDictionary[TableTask, Quadratic] = WeakKeyDictionary()
"""H'H of a device's records does not change from round to round; a function of the task alone."""


def problem_of(task: TableTask, tolerance: float, most: int) -> Problem:
    """The problem that a device's records pose; `ConfigError` that says what does not fit."""
    if isinstance(known := _QUADRATIC.get(task), Quadratic):
        return known
    records, n = train_records(task, "noise_robust_admm"), task.schema.size
    h = records.x.astype(np.float64)
    if h.shape[1] != n:
        raise ConfigError(f"records of {h.shape[1]} columns (an intercept among them); the model has {n} weights")
    if len(records.y) != len(h) or not np.isfinite(records.y).all():
        raise ConfigError("noise_robust_admm needs a finite target for every record")
    if records.classes:
        if len(records.classes) != 2 or not np.isin(records.y, (0, 1)).all():
            raise ConfigError(
                f"{len(records.classes)} classes ({', '.join(records.classes[:5])}); logistic regression here tells two apart"
            )
        # One class alone is legal: rho bounds the solution, and the consensus brings the other class's devices in.
        return Logistic(h, 2.0 * records.y - 1.0, task.weight, tolerance, most)
    y = records.y.astype(np.float64)
    _QUADRATIC[task] = found = Quadratic(task.weight * (h.T @ h), task.weight * (h.T @ y))
    return found
