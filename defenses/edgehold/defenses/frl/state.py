"""What FRL is set to, what it sends, what comes back, what the server keeps; and what a seed stands for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import floor, prod, sqrt
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgehold.core.config import Config
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import FloatArray, Schema, Vector

SEED_LIMIT = 1 << 63
ROUND_LIMIT = 1_000_000
EDGES_LIMIT = 1 << 31
"""Edges a layer must have fewer of: edge ids are int32."""

Ranking: TypeAlias = NDArray[np.int32]
"""(n,) edge ids of a layer, least important first: a permutation of 0..n-1. Not the ranks: those are its inverse."""


class Training(Config, frozen=True, kw_only=True):
    """How each device trains its scores; the same bounds hold in a plan and in an order that reaches a device.

    keep: share of the edges of each layer that the network uses. The rate of round t (from 0) and local epoch e of E is
    learning_rate * decay^t * (1 + cos(pi e / E)) / 2.
    """

    keep: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    local_epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 8
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.4
    decay: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.999
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1e-4


class Settings(Training, frozen=True, kw_only=True):
    """The [method] table of an FRL plan.

    liars: lying devices per round that the fact `edges_contested` reckons with; changes nothing else.
    upload: "full" rankings; nothing else in this version.
    """

    liars: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    upload: Literal["full"] = "full"

    def check(self, updates: int) -> None:
        """`ConfigError` when half or more of that many votes would be lies: then liars alone decide."""
        if self.liars and 2 * self.liars >= updates:
            raise ConfigError(
                f"method.liars = {self.liars} of {updates} votes; a vote holds against fewer than half: raise cohort.quorum "
                f"to at least {2 * self.liars + 1} or lower liars",
                field="method.liars",
            )


@dataclass(frozen=True, slots=True)
class Layer:
    """One ranked tensor. edges: its values; fan_in: inputs of one output; start: where it lies in the flat model."""

    name: str
    edges: int
    fan_in: int
    start: int

    @property
    def place(self) -> slice:
        """Where it lies in the flat model."""
        return slice(self.start, self.start + self.edges)

    def dropped(self, keep: float) -> int:
        """Edges that the network does not use: floor((1 - keep) n)."""
        return dropped_edges(self.edges, keep)


def dropped_edges(edges: int, keep: float) -> int:
    """Edges of a layer that the network does not use: floor((1 - keep) n); at least one is kept."""
    return floor((1.0 - keep) * edges)


def layers(schema: Schema) -> tuple[Layer, ...]:
    """The layers of a model, one per tensor; `ConfigError` names a tensor that cannot be ranked."""
    found, start = [], 0
    for tensor in schema.tensors:
        if len(tensor.shape) < 2:
            raise ConfigError(
                f"tensor {tensor.name} of shape {list(tensor.shape)} cannot be ranked: FRL takes weights of linear and "
                "convolution layers only; leave out biases and affine normalisation (reference models: net = {bias = false})"
            )
        if not 0 < tensor.size < EDGES_LIMIT:
            raise ConfigError(f"tensor {tensor.name} has {tensor.size} values; allowed: 1 to {EDGES_LIMIT - 1}")
        found.append(Layer(tensor.name, tensor.size, prod(tensor.shape[1:]), start))
        start += tensor.size
    return tuple(found)


@lru_cache(maxsize=32)
def weights_of(seed: int, number: int, edges: int, fan_in: int) -> FloatArray:
    """The fixed weights of layer `number` (from 0), (edges,) float32: +-sqrt(2 / fan_in), each sign equally likely."""
    size = np.float32(sqrt(2.0 / fan_in))
    drawn = np.where(stream(seed, "frl", "sign", number).random(edges, dtype=np.float32) < 0.5, -size, size)
    drawn.flags.writeable = False
    return drawn


@lru_cache(maxsize=32)
def scores_of(seed: int, number: int, edges: int, fan_in: int) -> tuple[FloatArray, Ranking]:
    """(base, order): sorted sizes of the initial scores U(-1/sqrt(fan_in), 1/sqrt(fan_in)), and the edges in that order.

    Base stands for the scores at the start of every round, whatever the order of the edges is by then.
    Departure from the paper's code, which sorts signed scores but keeps the largest sizes: here both go by size.
    """
    bound = np.float32(1.0 / sqrt(fan_in))
    drawn = stream(seed, "frl", "score", number).random(edges, dtype=np.float32) * bound  # the size of a symmetric draw
    order = ranking_of(drawn)
    base: FloatArray = drawn[order]
    base.flags.writeable = order.flags.writeable = False
    return base, order


def ranking_of(importance: NDArray[np.generic]) -> Ranking:
    """Edges from the least to the most important; equals in the order of their ids."""
    return np.argsort(importance, kind="stable").astype(np.int32)


def ranks_of(ranking: Ranking) -> Ranking:
    """rank[edge]: position of the edge, 0 for the least important; the inverse permutation."""
    ranks = np.empty_like(ranking)
    ranks[ranking] = np.arange(len(ranking), dtype=np.int32)
    return ranks


@dataclass(frozen=True, slots=True)
class Order:
    """What a device is asked to do. seed: training seed of the run, from which weights and initial scores come; round:
    counted from 1; rankings: the global order of every layer.
    """

    seed: int
    round: int
    rankings: Sequence[Ranking]
    training: Training


@dataclass(frozen=True, slots=True)
class Update:
    """What a device answers. rankings: its own order of every layer."""

    rankings: Sequence[Ranking]


@dataclass(frozen=True, slots=True)
class State:
    """rankings: the global order of every layer, packed (`edgehold.defenses.frl.packing`), uint8."""

    rankings: Vector
