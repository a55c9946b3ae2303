"""What Bristle is set to, what it sends, what a device keeps, what the server keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from edgehold.core.config import Config
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import FloatArray, Schema, Vector
from edgehold.defenses.bristle.listing import NOBODY

SKETCH = 64
"""Numbers of a sketch."""


class Training(Config, frozen=True, kw_only=True):
    """How each device trains and integrates; the same bounds hold in a plan and in an order that reaches a device.

    learning_rate, weight_decay: of Adam (decay as in the authors' code: added to the gradient); steps: mini-batches of
    `batch_size` per round. keep: of what training changed, the columns of "familiar" classes (CWR), or "all", as in plain
    decentralised training: a control. shared: phi, the classes on which a sender is judged, the best it has on this device.
    budget: rho, heads read per round; explore: alpha, how far from the own head they are drawn (0: the nearest third alone).
    integrator: how heads become one; all but "bristle" are controls. liars: what "trimmed" and "krum" reckon with.
    base: what heads are mixed into: the "kept" head, or, as in the authors' code, the "trained" one, whose foreign columns the
    device's own training has pushed down. centre: whether every column loses its mean after reading; False is a control.
    """

    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1e-3
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=10)] = 5e-3
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 5
    steps: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 1
    keep: Literal["familiar", "all"] = "familiar"
    shared: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 3
    budget: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10
    explore: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.4
    integrator: Literal["bristle", "mean", "median", "trimmed", "krum", "alone"] = "bristle"
    liars: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    base: Literal["kept", "trained"] = "kept"
    centre: bool = True


class Settings(Training, frozen=True, kw_only=True):
    """The [method] table of a Bristle plan.

    listing_limit: senders an order lists; beyond it they are drawn anew in each round. norm_factor: a head whose longest column
    is longer than so many times the median of the longest columns of the round before is not listed; 0: no such law.
    """

    listing_limit: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 256
    norm_factor: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 10.0

    def check(self, updates: int) -> None:
        """`ConfigError` when krum or trimmed reckon with liars only, or a factor below 1 would refuse the median itself."""
        if self.integrator in ("trimmed", "krum") and self.liars >= updates:
            raise ConfigError(
                f"method.liars = {self.liars} of {updates} updates; at least one must be honest", field="method.liars"
            )
        if 0 < self.norm_factor < 1:
            raise ConfigError(
                f"method.norm_factor = {self.norm_factor}; at least 1, or 0 for no limit", field="method.norm_factor"
            )


def head_shape(schema: Schema) -> tuple[int, int]:
    """(d, C): features and classes; `ConfigError` for a model that is no head."""
    tensors = schema.tensors
    if len(tensors) != 1 or len(tensors[0].shape) != 2 or min(tensors[0].shape) < 1:
        found = ", ".join(f"{one.name} {list(one.shape)}" for one in tensors)
        raise ConfigError(
            f"Bristle trains one head of features by classes; this model is {found}. Use a task of frozen features "
            "(edgehold.client.data.frozen:make_task)",
            field="run.task",
        )
    return tensors[0].shape[0], tensors[0].shape[1]


@dataclass(frozen=True, slots=True)
class Order:
    """What a device is asked to do. seed: training seed of the run; round: counted from 1.

    listing: sender -> SHA-256 of its update of the round before, as it travelled, in ascending order of senders.
    sketches: (len(listing), SKETCH) float32, in that order. before: digest of the listing that every order of the round before
    carried.
    """

    seed: int
    round: int
    listing: Mapping[str, bytes]
    sketches: FloatArray
    before: bytes
    training: Training


@dataclass(frozen=True, slots=True)
class Update:
    """What a device answers and its peers read in the next round. head: (d * C,) float32, rows first.

    round: the one it was made in; seen: digest of the listing that its sender found in the order.
    """

    head: Vector
    round: int
    seen: bytes


@dataclass(frozen=True, slots=True)
class Local:
    """What a device keeps. kept: the head, foreign columns as peers gave them; trained: the head after local training;
    first, second: Adam's moments; all (d, C) float32. steps: Adam's, so far.

    round: the last one worked in, 0 for none; seen: digest of its listing; sent: SHA-256 of the update sent in it.
    """

    kept: FloatArray
    trained: FloatArray
    first: FloatArray
    second: FloatArray
    steps: int = 0
    round: int = 0
    seen: bytes = NOBODY
    sent: bytes = bytes(32)


@dataclass(frozen=True, slots=True)
class State:
    """model: mean of the heads listed, (d * C,) float32; round: closed so far. listing, sketches: of the next order.

    before: digest of the listing in the orders of the last round; median: of the longest columns of the heads listed, 0 before
    the first round.
    """

    model: Vector
    sketches: Vector
    listing: Mapping[str, bytes] = field(default_factory=dict)
    round: int = 0
    before: bytes = NOBODY
    median: float = 0.0
