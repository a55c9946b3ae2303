"""A linear model of normal records: how raw columns become standard ones, a subspace near which they lie, and the score.

Pure NumPy, because a device scores its own stream with it. The flat weights of such a model hold everything that scoring
takes, so that a model file alone is enough:

    mean (d,), width (d,)   of the columns, after the curve
    subspace (d, k)         whatever its basis: scores orthonormalise it
    threshold (1,)          a record whose score is above it is an alarm; `NEVER` until one was found
    reading (4,)            curve (1: logarithm), clip (0: none), and 48 bits of the digest of the columns' names
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.vectors import FloatArray, Schema, Tensor

Doubles: TypeAlias = NDArray[np.float64]

CURVES = ("log", "none")
NEVER = float(np.finfo(np.float32).max)
"""Threshold of a model that has none yet: model files hold finite numbers only."""
NAMES = ("mean", "width", "subspace", "threshold", "reading")
BLOCK = 4096
"""Records scored at once: a block of 39 columns in float64 stays in the second-level cache."""


def schema_of(columns: int, components: int) -> Schema:
    """The tensors of a model. `ConfigError` where the subspace would hold every record, or none."""
    if not 1 <= components < columns:
        raise ConfigError(
            f"components = {components} of {columns} columns; at least 1 and fewer than there are columns, or no record lies "
            "outside the subspace",
            field="components",
        )
    shapes: tuple[tuple[int, ...], ...] = ((columns,), (columns,), (columns, components), (1,), (4,))
    return Schema(tuple(Tensor(name, shape) for name, shape in zip(NAMES, shapes, strict=True)))


def shape_of(schema: Schema) -> tuple[int, int]:
    """(d, k) of such a schema; `WrongShape` for any other."""
    found = {tensor.name: tensor.shape for tensor in schema.tensors}
    shape = found.get("subspace", ())
    if len(shape) == 2 and 1 <= shape[1] < shape[0] and schema.tensors == schema_of(*shape).tensors:
        return shape[0], shape[1]
    listed = ", ".join(f"{name} {list(one)}" for name, one in list(found.items())[:8])
    raise WrongShape(
        f"a model of {listed or 'no tensors'}; expected mean (d,), width (d,), subspace (d, k), threshold (1,), reading (4,) "
        "with k < d, as `edgehold.client.data.anomaly` makes them"
    )


def names_digest(columns: Sequence[str]) -> int:
    """48 bits that tell one list of columns, in its order, from another; 0 for columns without names."""
    if not columns:
        return 0
    joined = "\0".join(columns).encode()
    return int.from_bytes(hashlib.sha256(joined).digest()[:6], "little") or 1


@dataclass(frozen=True, slots=True)
class Reading:
    """How raw columns are read. curve: "log" for sign(x) log(1 + |x|), which tames heavy tails, or "none"; clip: standard
    values are cut to +-clip, 0 for not at all; columns: `names_digest`.
    """

    curve: str = "log"
    clip: float = 5.0
    columns: int = 0

    def __post_init__(self) -> None:
        if self.curve not in CURVES:
            raise ConfigError(f"curve = {self.curve!r}; allowed: {', '.join(CURVES)}", field="curve")
        if not 0 <= self.clip <= 1e6:
            raise ConfigError(f"clip = {self.clip}; allowed: 0 (none) to 1e6 standard deviations", field="clip")
        object.__setattr__(self, "clip", float(np.float32(self.clip)))

    def values(self) -> FloatArray:
        """The tensor "reading", (4,) float32, exact."""
        halves = (self.columns >> 24, self.columns & 0xFFFFFF)
        return np.array([self.curve == "log", self.clip, *halves], dtype=np.float32)

    @classmethod
    def of(cls, values: FloatArray) -> "Reading":
        """Inverse of `values`; `WrongShape` where the numbers are none such."""
        curve, clip, high, low = (float(value) for value in values)
        whole = all(half.is_integer() and 0 <= half < 1 << 24 for half in (high, low))
        if curve not in (0.0, 1.0) or not 0 <= clip <= 1e6 or not whole:
            raise WrongShape(
                f"tensor reading is {[curve, clip, high, low]}; expected 0 or 1, a clip, and two halves of a digest"
            )
        return cls("log" if curve else "none", clip, int(high) << 24 | int(low))

    def curved(self, x: NDArray[Any]) -> Doubles:
        """(n, d) float64, a fresh array."""
        wide = np.array(x, dtype=np.float64)
        if self.curve == "log":
            sizes = np.abs(wide)
            np.log1p(sizes, out=sizes)
            np.copysign(sizes, wide, out=wide)
        return wide

    def standard(self, x: NDArray[Any], mean: NDArray[Any], width: NDArray[Any]) -> Doubles:
        """Raw records (n, d) as standard ones, float64. mean, width: (d,) of the curved columns."""
        z = self.curved(x)
        z -= mean
        z /= width
        if self.clip:
            np.clip(z, -self.clip, self.clip, out=z)
        return z

    def check(self, columns: Sequence[str], whose: str) -> None:
        """`ConfigError` when the model was fitted to other columns, or to the same in another order."""
        mine = names_digest(columns)
        if mine and self.columns and mine != self.columns:
            shown = ", ".join(columns[:6]) + (", ..." if len(columns) > 6 else "")
            raise ConfigError(
                f"{whose}: the {len(columns)} columns {shown} are not those that the model was fitted to (names and order "
                f"differ: digest {mine:012x}, the model's {self.columns:012x})",
                field="columns",
            )


@dataclass(frozen=True, slots=True, eq=False)
class Detector:
    """A model that scores. mean, width: (d,); basis: (d, k), orthonormal, float64; threshold: of the score."""

    mean: FloatArray
    width: FloatArray
    basis: Doubles
    threshold: float
    reading: Reading

    @classmethod
    def of(cls, schema: Schema, weights: FloatArray) -> "Detector":
        """From flat weights; `WrongShape` where they are no such model."""
        shape_of(schema)
        parts = schema.unflatten(np.asarray(weights, dtype=np.float32))
        for name, values in parts.items():
            if not np.isfinite(values).all():
                raise WrongShape(f"tensor {name} holds a value that is not finite")
        if not (parts["width"] > 0).all():
            at = int(np.flatnonzero(~(parts["width"] > 0))[0])
            raise WrongShape(f"tensor width is {parts['width'][at]} at column {at}; every width must be above 0")
        basis, rank = orthonormal(parts["subspace"].astype(np.float64))
        if rank < basis.shape[1]:
            raise WrongShape(f"tensor subspace has {basis.shape[1]} columns that span {rank} dimensions")
        reading = Reading.of(parts["reading"])
        return cls(parts["mean"], parts["width"], basis, float(parts["threshold"][0]), reading)

    def scores(self, x: NDArray[Any]) -> Doubles:
        """(n,) squared distances of raw records (n, d) to the subspace, in standard units."""
        found = np.empty(len(x))
        for start in range(0, len(x), BLOCK):
            z = self.reading.standard(x[start : start + BLOCK], self.mean, self.width)
            inside = z @ self.basis
            rest = np.einsum("ij,ij->i", z, z) - np.einsum("ij,ij->i", inside, inside)
            found[start : start + BLOCK] = np.maximum(rest, 0.0)
        return found


def orthonormal(basis: Doubles) -> tuple[Doubles, int]:
    """The orthonormal basis nearest to a basis of the same subspace (U V' of its thin SVD), (d, k), and the rank."""
    left, sizes, right = np.linalg.svd(basis, full_matrices=False)
    rank = int((sizes > 1e-7 * max(sizes[0], 1e-300)).sum())
    return np.asarray(left @ right), rank


def metrics(scores: Doubles, attack: NDArray[np.bool_], threshold: float) -> dict[str, float]:
    """How well scores tell attacks (the positive class) from normal records. scores, attack: (n,).

    auc: probability that an attack scores above a normal record, equals counting half; left out where one kind is missing.
    all_alarm_f1: F1 of whoever cries alarm at every record, the figure to beat.
    """
    alarm = scores > threshold
    hit, false = float((alarm & attack).sum()), float((alarm & ~attack).sum())
    attacks, normals = float(attack.sum()), float((~attack).sum())
    found = {
        "accuracy": (hit + normals - false) / len(scores),
        "precision": hit / (hit + false) if hit + false else 0.0,
        "recall": hit / attacks if attacks else 0.0,
        "f1": 2 * hit / (hit + false + attacks) if hit + false + attacks else 0.0,
        "false_positive_rate": false / normals if normals else 0.0,
        "all_alarm_f1": 2 * attacks / (len(scores) + attacks) if attacks else 0.0,
    }
    if attacks and normals:
        found["auc"] = _auc(scores, attack)
    return found


def _auc(scores: Doubles, attack: NDArray[np.bool_]) -> float:
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of equal scores, from 1
    attacks = int(attack.sum())
    above = ranks[place][attack].sum() - attacks * (attacks + 1) / 2
    return float(above / (attacks * (len(scores) - attacks)))
