"""What FRL is set to, what it sends, what comes back, what the server keeps; and what a seed stands for."""

from collections.abc import Sequence
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
from edgehold.core.vectors import FloatArray, Vector
from edgehold.defenses.frl.sorting import inverse, sorted_places

Ranks: TypeAlias = NDArray[np.int32]
"""(n,) rank[edge], by edge id: 0 for the least important edge of a layer, n - 1 for the most important; a permutation."""

Ranking: TypeAlias = NDArray[np.int32]
"""(n,) edge ids of a layer, least important first: the inverse of the ranks. Adding up such lists means nothing."""


class Training(Config, frozen=True, kw_only=True):
    """How each device trains its scores; the same bounds hold in a plan and in an order that reaches a device.

    keep: share of the edges of each layer that the network uses. The rate of round t (from 0) and local epoch e of E is
    learning_rate * decay^t * (1 + cos(pi e / E)) / 2. signed: rank scores by value, yet use those of the largest size, as the
    paper's code does: an edge that is ranked last is used then. False: both go by size, so that the upper ranks are used.
    """

    keep: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    local_epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 8
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.4
    decay: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.999
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1e-4
    signed: bool = False


Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Settings(Training, frozen=True, kw_only=True):
    """The [method] table of an FRL plan.

    liars: lying devices per round that the fact `edges_contested` reckons with; changes nothing else.
    upload: "full" rankings, or only the ids of the "top" edges, a share `top` of each layer; all others count as rank 0 then.
    coding: of full rankings, in both directions: "packed", "entropy" (every layer that this makes smaller), or "auto": those
    layers for which it saves more time on a link of `link_mbit_s` than it takes to compute (`edgehold.defenses.frl.coding`).
    """

    liars: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    upload: Literal["full", "top"] = "full"
    top: Share = 0.5
    coding: Literal["packed", "entropy", "auto"] = "packed"
    link_mbit_s: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 20.0

    @property
    def share(self) -> float:
        """Share of the edges whose ranks are uploaded."""
        return self.top if self.upload == "top" else 1.0

    def check(self, updates: int) -> None:
        """`ConfigError` when half or more of that many votes would be lies: then liars alone decide."""
        if self.liars and 2 * self.liars >= updates:
            raise ConfigError(
                f"method.liars = {self.liars} of {updates} votes; a vote holds against fewer than half: raise cohort.quorum "
                f"to at least {2 * self.liars + 1} or lower liars",
                field="method.liars",
            )


def why_single(settings: Settings) -> str:
    """Why the server must look at single rankings under these settings; "" where their sum will do."""
    if settings.upload == "top":
        return (
            'with upload = "top" the totals of a sum depend on the share that is ranked, which the signed terms of a sum do '
            'not tell, so that nobody could test them (upload = "full" has totals that follow from the model)'
        )
    return ""


@lru_cache(maxsize=32)
def weights_of(seed: int, number: int, edges: int, fan_in: int) -> FloatArray:
    """The fixed weights of layer `number` (from 0), (edges,) float32: +-sqrt(2 / fan_in), each sign equally likely."""
    size = np.float32(sqrt(2.0 / fan_in))
    drawn = np.where(stream(seed, "frl", "sign", number).random(edges, dtype=np.float32) < 0.5, -size, size)
    drawn.flags.writeable = False
    return drawn


@lru_cache(maxsize=32)
def scores_of(seed: int, number: int, edges: int, fan_in: int, signed: bool = False) -> tuple[FloatArray, Ranks]:
    """(base, ranks): sorted initial scores U(-1/sqrt(fan_in), 1/sqrt(fan_in)) - their sizes unless `signed` - and each edge's
    place among them.

    base[rank] stands for the score at the start of every round, whichever edge has that rank by then.
    Departure from the paper's code, which sorts signed scores but uses the largest sizes: unless `signed`, both go by size.
    """
    bound = np.float32(1.0 / sqrt(fan_in))
    drawn = stream(seed, "frl", "score", number).random(edges, dtype=np.float32) * bound  # the size of a symmetric draw
    if signed:
        drawn = np.where(stream(seed, "frl", "score sign", number).random(edges, dtype=np.float32) < 0.5, -drawn, drawn)
    places = sorted_places(drawn)
    base: FloatArray = drawn[places]
    ranks = inverse(places)
    base.flags.writeable = ranks.flags.writeable = False
    return base, ranks


def cut_ranks(base: FloatArray, dropped: int) -> tuple[int, int]:
    """(first, end): the network does not use edges of the ranks first..end-1, those of the `dropped` smallest |base|.

    base: (n,) sorted scores. Of sizes this is (0, dropped). Of signed ones the smallest are neighbours too: those between which
    the larger end is smallest; of equal choices the one with the lowest ranks.
    """
    if not dropped:
        return 0, 0
    ends = np.maximum(np.abs(base[: len(base) - dropped + 1]), np.abs(base[dropped - 1 :]))
    first = int(np.argmin(ends))
    return first, first + dropped


def ranks_by(importance: NDArray[np.generic]) -> Ranks:
    """Place of every edge when sorted by importance; equals in the order of their ids."""
    return inverse(sorted_places(importance))


@dataclass(frozen=True, slots=True)
class Order:
    """What a device is asked to do. seed: training seed of the run, from which weights and initial scores come; round:
    counted from 1; ranks: the global ones of every layer; entropy: which layers are entropy-coded, here and in the answer;
    top: share of the edges whose ranks are wanted.
    """

    seed: int
    round: int
    ranks: Sequence[Ranks]
    training: Training
    entropy: tuple[bool, ...]
    top: float = 1.0


@dataclass(frozen=True, slots=True)
class Update:
    """What a device answers. ranks: its own of every layer; entropy, top: as the order asked for."""

    ranks: Sequence[Ranks]
    entropy: tuple[bool, ...]
    top: float = 1.0


@dataclass(frozen=True, slots=True)
class State:
    """ranks: the global ones of every layer, packed (`edgehold.defenses.packing`), uint8."""

    ranks: Vector
