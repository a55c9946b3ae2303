"""Finite features whose inner products are nearly the Gaussian kernel's, drawn or made from what is public.

Heads of devices can be averaged because all of them weigh the same features. What these are stands in the name of the model's
one tensor: so the schema tells them, two sides that differ in them are told apart before a round, and a model file says itself
what its numbers belong to.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from math import pi, sqrt
from typing import Any, Literal, Protocol

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import Schema, Tensor
from edgehold.defenses.floral.kernels import rbf
from edgehold.defenses.floral.projection import Array

Kind = Literal["fourier", "nystrom"]

_NAME = re.compile(r"(fourier|nystrom) inputs=(\d+) gamma=([0-9.e+-]+) (?:seed=(\d+)|landmarks=([0-9a-f]{16}))")
_SMALLEST = 1e-10
"""Eigenvalues of the landmarks' kernel below this share of the largest count as 0: landmarks may repeat."""


class Features(Protocol):
    """inputs: d of a record; count: m; name: everything that determines them, up to m."""

    @property
    def inputs(self) -> int:
        """d."""

    @property
    def gamma(self) -> float:
        """Of the kernel."""

    @property
    def count(self) -> int:
        """m."""

    @property
    def name(self) -> str:
        """Name of the tensor that weighs these features."""

    def __call__(self, x: Any) -> Array:
        """(n, m) float64 for records (n, d)."""


@dataclass(frozen=True)
class Fourier:
    """phi(x) = sqrt(2 / m) cos(Omega x + u), Omega ~ N(0, 2 gamma) (m x d), u ~ U[0, 2 pi), drawn from a public seed.

    Root mean square error of an entry of the kernel: at most about 1 / sqrt(m).
    Source: Rahimi and Recht 2007, "Random features for large-scale kernel machines".
    """

    inputs: int
    gamma: float
    count: int
    seed: int

    @property
    def name(self) -> str:
        """See `Features`."""
        return f"fourier inputs={self.inputs} gamma={self.gamma!r} seed={self.seed}"

    @cached_property
    def drawn(self) -> tuple[Array, Array]:
        """Omega (m, d) and u (m,)."""
        rng = stream(self.seed, "floral", "fourier", self.inputs, self.count)
        omega = sqrt(2 * self.gamma) * rng.standard_normal((self.count, self.inputs))
        return omega, rng.uniform(0, 2 * pi, self.count)

    def __call__(self, x: Any) -> Array:
        """See `Features`."""
        omega, u = self.drawn
        return np.asarray(sqrt(2 / self.count) * np.cos(_matrix(x, self.inputs) @ omega.T + u))


@dataclass(frozen=True, eq=False)
class Nystrom:
    """phi(x) = K_mm^(-1/2) k_m(x) over m public landmarks (m, d); never use a device's own records as landmarks.

    Source: Williams and Seeger 2001, "Using the Nystroem method to speed up kernel machines".
    """

    landmarks: Array
    gamma: float

    @property
    def inputs(self) -> int:
        """See `Features`."""
        return int(self.landmarks.shape[1])

    @property
    def count(self) -> int:
        """See `Features`."""
        return len(self.landmarks)

    @property
    def name(self) -> str:
        """See `Features`."""
        digest = hashlib.sha256(np.ascontiguousarray(self.landmarks, dtype="<f8").tobytes()).hexdigest()[:16]
        return f"nystrom inputs={self.inputs} gamma={self.gamma!r} landmarks={digest}"

    @cached_property
    def root(self) -> Array:
        """K_mm^(-1/2), (m, m)."""
        values, vectors = np.linalg.eigh(rbf(self.landmarks, self.landmarks, self.gamma))
        kept = values > _SMALLEST * values[-1]
        return np.asarray((vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T)

    def __call__(self, x: Any) -> Array:
        """See `Features`."""
        return np.asarray(rbf(_matrix(x, self.inputs), self.landmarks, self.gamma) @ self.root)


@dataclass(frozen=True, slots=True)
class Head:
    """What the schema of a linear head over features says. mark: the seed, or the landmarks' digest; outputs: 1 for two
    classes, else one per class. The tensor is (count + 1, outputs): weights by rows, then the bias.
    """

    kind: str
    inputs: int
    gamma: float
    mark: str
    count: int
    outputs: int

    @property
    def classes(self) -> int:
        """Classes it tells apart."""
        return max(2, self.outputs)


def schema_of(features: Features, classes: int) -> Schema:
    """Of a head over `features`; `ConfigError` for fewer than two classes."""
    if classes < 2:
        raise ConfigError(f"{classes} classes; FLORAL separates two or more")
    return Schema((Tensor(features.name, (features.count + 1, 1 if classes == 2 else classes)),))


def head_of(schema: Schema) -> Head:
    """Inverse of `schema_of`; `ConfigError` for any other model."""
    tensor = schema.tensors[0] if len(schema.tensors) == 1 else None
    found = _NAME.fullmatch(tensor.name) if tensor is not None else None
    if tensor is None or found is None or len(tensor.shape) != 2 or tensor.shape[0] < 2 or tensor.shape[1] < 1:
        names = ", ".join(f"{one.name} {list(one.shape)}" for one in schema.tensors[:4])
        raise ConfigError(
            f"FLORAL trains a linear head over public features; this model has the tensors {names}. "
            "Use the task edgehold.client.data.kernel:make_task",
            field="run.task",
        )
    kind, inputs, gamma, seed, landmarks = found.groups()
    return Head(kind, int(inputs), float(gamma), seed or landmarks, tensor.shape[0] - 1, tensor.shape[1])


def _matrix(x: Any, inputs: int) -> Array:
    found = np.asarray(x, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != inputs:
        raise ConfigError(f"records of shape {found.shape}; these features take rows of {inputs} numbers")
    return found
