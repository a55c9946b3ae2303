"""What HideNseek is set to, what it sends, what comes back, what the server keeps; and what seed and mask stand for."""

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgehold.core.config import Config
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import FloatArray, Schema, Vector
from edgehold.defenses.layers import Layer

VOTERS_LIMIT = 1 << 16
"""Devices of one round stay below it: counts are uint16."""

Mask: TypeAlias = NDArray[np.bool_]
"""(n,) which weights of the flat model are left."""
Counts: TypeAlias = NDArray[np.uint16]
"""(K,) per weight that is left, how many of the last round's devices voted for its own sign."""
Bits: TypeAlias = NDArray[np.bool_]
"""(K,) per weight that is left: True keeps its sign, False turns it."""


class Training(Config, frozen=True, kw_only=True):
    """How each device trains its latent scores; the same bounds hold in a plan and in an order that reaches a device.

    Scores start at start_size * (2 count / voters - 1); Adam moves them with `learning_rate`, within -1..1; the sign of a score
    is the vote. Step and starting size belong together: at 0.1 a rate of 0.01 works, 0.003 and 0.03 do not (card).
    values: "signs" turns weights, "mask" switches them off (the control with {0, 1} instead of {-1, 1}).
    """

    local_epochs: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 3
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 16
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.01
    start_size: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    values: Literal["signs", "mask"] = "signs"


class Settings(Training, frozen=True, kw_only=True):
    """The [method] table of a HideNseek plan.

    keep: share of all weights that pruning leaves. prune_steps: 1 prunes in one shot, as in the paper; more follow SynFlow's
    exponential schedule. floor: share of each layer that is left in any case. prune: "synflow", or "random" as a control.
    allow_broken: start even with a network in which a layer has fewer weights than outputs, or no path through it.
    between: what devices start the next round from: the "mean" sign or the hard "majority" (the control that loses).
    liars: lying devices per round that the fact `signs_contested` reckons with; changes nothing else.
    """

    keep: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    prune_steps: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    floor: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    prune: Literal["synflow", "random"] = "synflow"
    allow_broken: bool = False
    between: Literal["mean", "majority"] = "mean"
    liars: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0

    def check(self, updates: int) -> None:
        """`ConfigError` when more devices vote than can be counted, or half or more of them lie: then liars alone decide."""
        if updates >= VOTERS_LIMIT:
            raise ConfigError(f"{updates} votes per round; HideNseek counts at most {VOTERS_LIMIT - 1}", field="cohort.size")
        if self.liars and 2 * self.liars >= updates:
            raise ConfigError(
                f"method.liars = {self.liars} of {updates} votes; a vote holds against fewer than half: raise cohort.quorum "
                f"to at least {2 * self.liars + 1} or lower liars",
                field="method.liars",
            )


def kept_weights(keep: float, schema: Schema) -> int:
    """K = round(keep * n), at least 1."""
    return max(1, round(keep * schema.size))


@lru_cache(maxsize=32)
def drawn(seed: int, number: int, edges: int, fan_in: int) -> FloatArray:
    """Weights of layer `number` (from 0) before pruning, (edges,) float32: N(0, 2 / fan_in), none of them 0.

    Not the constant size of FRL: equal sizes make saliencies tie, and a tie prunes whole layers.
    """
    values = stream(seed, "hidenseek", "weight", number).standard_normal(edges, dtype=np.float32)
    values[values == 0.0] = np.float32(1e-6)
    values *= np.float32(sqrt(2.0 / fan_in))
    values.flags.writeable = False
    return values


def weights_of(seed: int, layers: tuple[Layer, ...], mask: Mask) -> FloatArray:
    """The fixed weights, (n,) float32: 0 where pruned, else drawn / sqrt(share of the layer that is left).

    A function of seed and mask alone, so that nobody has to send weights; the division keeps the size of activations.
    """
    weights = np.zeros(len(mask), dtype=np.float32)
    for number, layer in enumerate(layers):
        left = mask[layer.place]
        if left.any():
            grown = drawn(seed, number, layer.edges, layer.fan_in) / np.float32(sqrt(float(left.mean())))
            weights[layer.place] = np.where(left, grown, np.float32(0))
    return weights


def signs_of(counts: Counts, voters: int) -> Bits:
    """Which weights keep their sign when that many of `voters` want it; an even vote keeps it (sgn 0 = +1)."""
    return 2 * counts.astype(np.int32) >= voters


@dataclass(frozen=True, slots=True)
class Order:
    """What a device is asked to do. seed: training seed of the run, from which the weights come; round: counted from 1;
    mask: (n,); voters: of the last round, 0 before the first one; counts: (K,), their votes, empty when voters = 0.
    """

    seed: int
    round: int
    mask: Mask
    voters: int
    counts: Counts
    training: Training

    def mean_signs(self) -> FloatArray:
        """(K,) float32 in -1..1: 2 count / voters - 1; +1 before the first round."""
        if not self.voters:
            return np.ones(int(self.mask.sum()), dtype=np.float32)
        return np.asarray(self.counts * np.float32(2.0 / self.voters) - np.float32(1.0), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Update:
    """What a device answers. bits: (K,), packed in the order of the weights, the first one lowest; uint8, filled up with 0."""

    bits: Vector


@dataclass(frozen=True, slots=True)
class State:
    """model: mask and votes as bytes (`edgehold.defenses.hidenseek.packing`), uint8; voters: of the last round, 0 at first."""

    model: Vector
    voters: int
