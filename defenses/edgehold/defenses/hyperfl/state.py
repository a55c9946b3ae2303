"""What HyperFL is set to, what it sends, what a device keeps, what the server keeps."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from edgehold.core.config import Config
from edgehold.core.hyper_layout import Layout
from edgehold.core.vectors import FloatArray, Schema, Vector
from edgehold.defenses.baselines.fedavg import state as fedavg
from edgehold.defenses.baselines.fedavg.state import Update

__all__ = ["SPREAD", "Local", "Order", "Settings", "State", "Training", "Update", "layout_of"]

SPREAD = 0.3
"""How far first generated weights lie from the first model's, in units of He's size (`edgehold.core.hyper.initial`)."""


class Training(Config, frozen=True, kw_only=True):
    """The hypernetwork's shape and how each device trains; the same bounds hold in a plan and in an order.

    embedding, hidden: sizes of v and of the hidden layer; rank: of the outlets' weights, where that is smaller; 0: dense.
    backbone: dotted path of the part of the model that stays as each device's own code makes it; "": none.
    noise_multiplier: deviation of the noise that a device adds to its change of phi, over noise_clip, the largest norm that the
    change then has; 0: no noise, and no clip.
    head_epochs, head_learning_rate: step 1, the head alone; local_epochs, learning_rate: step 2, hypernetwork and embedding.
    """

    embedding: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    hidden: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 128
    rank: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    backbone: Annotated[str, msgspec.Meta(max_length=200)] = ""
    head_epochs: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 1
    head_learning_rate: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.1
    local_epochs: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5
    learning_rate: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.02
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 50
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.5
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=10)] = 5e-4
    noise_multiplier: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    noise_clip: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 1.0

    @property
    def noisy(self) -> bool:
        """Whether what leaves a device is private, and charged."""
        return self.noise_multiplier > 0

    @property
    def sigma(self) -> float:
        """Deviation of the noise on each number of the change of phi."""
        return self.noise_multiplier * self.noise_clip


class Settings(Training, frozen=True, kw_only=True):
    """The [method] table of a HyperFL plan. rule, rule_options, liars, clip_norm: as in FedAvg's, on changes of phi."""

    rule: str = "average"
    rule_options: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)
    liars: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    clip_norm: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None

    def check(self, updates: int) -> None:
        """`ConfigError` when rule or options are unknown, or cannot withstand `liars` among that many updates."""
        self.folding().check(updates)

    def folding(self) -> fedavg.Settings:
        """How changes of phi are combined: FedAvg's settings for it."""
        return fedavg.folding(self)


def layout_of(schema: Schema, how: Training) -> Layout:
    """Where everything lies in phi; `ConfigError` for a model of a single layer, or no such backbone."""
    return Layout.of(schema, how.embedding, how.hidden, how.rank, how.backbone)


@dataclass(frozen=True, slots=True)
class Order:
    """What a device is asked to do. phi: (layout.size,) float32; seed: training seed of the run."""

    phi: Vector
    training: Training
    seed: int


@dataclass(frozen=True, slots=True)
class Local:
    """What never leaves a device. v: (embedding,), head: (layout.head_size,); both float32."""

    v: FloatArray
    head: FloatArray


@dataclass(frozen=True, slots=True)
class State:
    """phi: the hypernetwork and what the rule remembers, as FedAvg keeps a model; rest: what the first model has beside what is
    generated, backbone and head, for `weights`.
    """

    phi: fedavg.State
    rest: Vector
