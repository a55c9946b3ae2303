"""What FedPCA is set to, what it sends in each of its three phases, what comes back, what device and server keep."""

from dataclasses import dataclass
from math import sqrt
from typing import Annotated, Literal

import msgspec
import numpy as np

from edgehold.core.anomaly import Doubles, Reading
from edgehold.core.config import Config
from edgehold.core.vectors import Array, FloatArray, Vector
from edgehold.defenses.memory import Memory

PHASES = ("standardise", "subspace", "threshold")
ORTHONORMAL = 1e-4
"""Largest entry of U'U - I that is admitted; honest float32 bases stay below 1e-6."""
LOWEST, HIGHEST = 1e-6, 1e6
"""Scores between which the bins of a histogram lie, their edges by equal ratios; one bin below and one above."""
VALUE_LIMIT = 1e30


class Training(Config, frozen=True, kw_only=True):
    """How each device works; the same bounds hold in a plan and in an order that reaches a device.

    mode: "fedpg": steps on the manifold from the received basis, the server remembers what each device sent last;
    "fedpg_paper": from the device's own last basis, the server averages the bases of the round's devices; "fedpe": the same in
    Euclidean space, orthonormality only as a constraint. rho: weight of the consensus, on standard columns about the k-th
    eigenvalue of S. learning_rate: 0 for 0.25 / (lambda_1(S) + rho), each device's own.
    """

    mode: Literal["fedpg", "fedpg_paper", "fedpe"] = "fedpg"
    local_steps: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10
    rho: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 3.0
    learning_rate: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0


class Settings(Training, frozen=True, kw_only=True):
    """The [method] table of a FedPCA plan.

    standardise_rounds, subspace_rounds: how many rounds find means and widths, then the subspace; those left find the
    threshold, each anew. With 0 and 0 a plan that starts from a model file only finds a new threshold.
    false_alarms: a, the share of held-out normal records above the threshold. bins: of the histograms it is found from.
    """

    standardise_rounds: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1
    subspace_rounds: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 20
    false_alarms: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    bins: Annotated[int, msgspec.Meta(ge=8, le=65_536)] = 1024

    def check(self, updates: int) -> None:
        """Any number of updates will do."""

    def phase(self, number: int) -> str:
        """Phase of a round. number: counted from 1."""
        if number <= self.standardise_rounds:
            return "standardise"
        return "subspace" if number <= self.standardise_rounds + self.subspace_rounds else "threshold"


def edges(bins: int) -> Doubles:
    """(bins - 1,) where a histogram's bins meet; the first bin begins at 0, the last one never ends."""
    return np.geomspace(LOWEST, HIGHEST, bins - 1)


def norm_limit(components: int) -> float:
    """Largest Frobenius norm of a basis in FedPE, where nothing else bounds it; an orthonormal one has sqrt(k)."""
    return 10.0 * sqrt(components)


@dataclass(frozen=True, slots=True)
class Order:
    """What a device is asked to do. mean, width: (d,) and basis: (d, k), float32; None where the phase does not say them.

    In the phase "subspace" means and widths come along until every device of the cohort has worked with them.
    """

    seed: int
    round: int
    phase: str
    training: Training
    reading: Reading
    bins: int
    mean: FloatArray | None = None
    width: FloatArray | None = None
    basis: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Moments:
    """Answer to "standardise". samples: records; sums, squares: (d,) float64, of the curved columns."""

    samples: int
    sums: Doubles
    squares: Doubles


@dataclass(frozen=True, slots=True)
class Basis:
    """Answer to "subspace". basis: (d, k) float32; fresh: the device has no dual from an earlier round of the run."""

    samples: int
    fresh: bool
    basis: FloatArray


@dataclass(frozen=True, slots=True)
class Histogram:
    """Answer to "threshold". counts: (bins,) uint32, of the scores of held-out normal records; they add up to `samples`."""

    samples: int
    counts: Array


Update = Moments | Basis | Histogram
ANSWERS: dict[str, type[Moments] | type[Basis] | type[Histogram]] = {
    "standardise": Moments, "subspace": Basis, "threshold": Histogram
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Local:
    """What stays on the device. mean, width: (d,) float32 as received; basis: (d, k) float32 as sent last; dual: (d, k)
    float64, Y over rho; constraint: (k, k) float64, FedPE's T.
    """

    mean: FloatArray | None = None
    width: FloatArray | None = None
    basis: FloatArray | None = None
    dual: Doubles | None = None
    constraint: Doubles | None = None


@dataclass(frozen=True, slots=True)
class State:
    """model: the flat weights, float32; closed: rounds behind us; memory: what each client said last in the phase of
    `phase`, its weight first.
    """

    model: Vector
    closed: int = 0
    phase: str = ""
    memory: Memory | None = None
