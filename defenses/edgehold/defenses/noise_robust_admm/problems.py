"""A device's own problem: least squares in closed form, logistic regression by Newton steps. Float64 throughout.

f(x) = weight * sum over records of 0.5 (y - h'x)^2, or of log(1 + exp(-y h'x)) with y = -1 or 1. What a device solves in a
round is the proximal step argmin f(x) - <linear, x> + rho/2 |x - centre|^2.
"""

from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.tables import TableTask, train_records
from edgehold.defenses.noise_robust_admm.state import Doubles


class Problem(Protocol):
    """A convex loss of n weights."""

    def gradient(self, x: Doubles) -> Doubles:
        """Of f at x, (n,)."""

    def prox(self, centre: Doubles, linear: Doubles, rho: float, start: Doubles) -> Doubles:
        """argmin f(x) - <linear, x> + rho/2 |x - centre|^2, (n,). start: where an iteration begins."""


@dataclass
class Quadratic:
    """A = weight H'H, (n, n); b = weight H'y, (n,). The factor of A + rho I is kept for the last rho."""

    a: Doubles
    b: Doubles
    _inverse: tuple[float, Doubles] | None = field(default=None, repr=False)

    def inverse(self, rho: float) -> Doubles:
        """B = (A + rho I)^-1. For a few hundred weights one product with B costs less than two triangular solves."""
        if self._inverse is None or self._inverse[0] != rho:
            self._inverse = rho, np.asarray(np.linalg.inv(self.a + rho * np.eye(len(self.a))), dtype=np.float64)
        return self._inverse[1]

    def gradient(self, x: Doubles) -> Doubles:
        """A x - b."""
        return np.asarray(self.a @ x - self.b)

    def prox(self, centre: Doubles, linear: Doubles, rho: float, start: Doubles) -> Doubles:
        """B (b + linear + rho centre), exactly."""
        return np.asarray(self.inverse(rho) @ (self.b + linear + rho * centre))


@dataclass
class Logistic:
    """h: (records, n); signs: (records,), -1 or 1. tolerance, most: see `Training`."""

    h: Doubles
    signs: Doubles
    weight: float
    tolerance: float
    most: int

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
