"""What an attacker who knows the records can train: the support vector machine of the victim, on any labels."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Classes: TypeAlias = NDArray[np.int64]
Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trained:
    """scores: (n,) on the training records, above 0 for class 1; duals: (n,) dual weights, 0..C; held: (h,) on held-out
    records.
    """

    scores: Array
    duals: Array
    held: Array


class Victim(Protocol):
    """A learner over fixed records."""

    def train(self, labels: Classes) -> Trained:
        """Trained on these labels."""


class KernelVictim(Victim, Protocol):
    """A machine over a kernel. kernel: (n, n) of the training records; cost: C, the most a dual weight can be."""

    kernel: Array
    cost: float


class SvmVictim:
    """scikit-learn's SVC with the kernel exp(-gamma |x - y|^2). x: (n, d) training records; held: (h, d), none for x itself."""

    def __init__(self, x: Any, gamma: float, cost: float, held: Any = None) -> None:
        from edgehold.defenses.floral.kernels import rbf

        self.cost = cost
        self.kernel: Array = rbf(x, x, gamma)
        self._held = self.kernel if held is None else rbf(held, x, gamma)

    def train(self, labels: Classes) -> Trained:
        """See `Victim`; with one class only it says that class everywhere."""
        from sklearn.svm import SVC

        n = len(labels)
        if len(np.unique(labels)) < 2:
            side = 2.0 * labels[0] - 1
            return Trained(np.full(n, side), np.zeros(n), np.full(len(self._held), side))
        machine = SVC(C=self.cost, kernel="precomputed").fit(self.kernel, labels)
        duals = np.zeros(n)
        duals[machine.support_] = np.abs(machine.dual_coef_[0])
        return Trained(machine.decision_function(self.kernel), duals, machine.decision_function(self._held))


def signed(labels: Classes) -> Array:
    """-1 for class 0, +1 for class 1."""
    return np.asarray(2.0 * labels - 1, dtype=np.float64)


def flipped(labels: Classes, which: Any) -> Classes:
    """New labels with those of `which` exchanged."""
    found = labels.copy()
    found[which] = 1 - found[which]
    return found
