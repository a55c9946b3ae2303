"""What FedAvg is set to, what it sends, what comes back, what the server keeps."""

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from edgehold.core.config import Config
from edgehold.core.vectors import Vector


class Training(Config, frozen=True, kw_only=True):
    """How each device trains; the same bounds hold in a plan and in an order that reaches a device."""

    local_epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 32
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.1
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    proximal: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    """Coefficient mu of the FedProx term; 0 is plain FedAvg."""
    local_steps: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    """Batches at most, of all epochs together; 0: all of them, 1: distributed SGD, one random batch a round."""


class Settings(Training, frozen=True, kw_only=True):
    """The [method] table of a FedAvg plan.

    rule: how updates are combined, "nnm+trimmed_mean" with pre-steps (`edgehold.defenses.baselines.rules`); rule_options:
    numbers that its parts take; liars: how many lying clients it must withstand.
    client_momentum: each device sends a running mean of its changes, m' = beta m + (1 - beta) change (Karimireddy et al. 2021).
    server_momentum, server_learning_rate: beta and eta of FedAvgM (Hsu et al. 2019); 0 and 1 are plain FedAvg.
    clip_norm: an update of larger Euclidean norm is scaled down to it and counted; one above 1000 times it is refused.
    """

    rule: str = "average"
    rule_options: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)
    liars: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    client_momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    server_momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    server_learning_rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0
    clip_norm: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None

    def check(self, updates: int) -> None:
        """`ConfigError` when rule or options are unknown, or cannot withstand `liars` among that many updates."""
        from edgehold.defenses.baselines.rules import recipe  # a device that decodes orders has no use for the rules

        recipe(self.rule, self.rule_options).check(updates, self.liars)


def why_single(settings: Settings) -> str:
    """Why the server must look at single updates under these settings; "" where their sum will do."""
    if settings.rule != "average":
        return f"rule {settings.rule!r} compares them (robustness comes from groups then: masks.combine)"
    if settings.clip_norm is not None:
        return "clip_norm has the server clip each of them (masks.norm has devices do it)"
    return ""


def folding(settings: Any) -> Settings:
    """FedAvg's settings for a method that folds by its rules. settings: with `rule`, `rule_options`, `liars` and
    `clip_norm`.
    """
    return Settings(
        rule=settings.rule, rule_options=settings.rule_options, liars=settings.liars, clip_norm=settings.clip_norm
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Order:
    """What a device is asked to do. model: (schema.size,) float32; seed: training seed of the run.

    client_momentum: beta of the running mean that the device sends instead of its change; 0: the change itself.
    """

    model: Vector
    training: Training
    seed: int
    client_momentum: float = 0.0


@dataclass(frozen=True, slots=True)
class Update:
    """What a device answers. delta: local minus global model, (schema.size,) float32; samples: claimed record count.

    norm: Euclidean norm of delta where decoding has measured it already; the numbers need not be read once more for it.
    """

    delta: Vector
    samples: int
    norm: float | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The global model; with server momentum, the running sum of steps; for a rule that remembers, the last combined
    update; all (schema.size,) float32. draws: rounds closed, counted for rules that draw at random.
    """

    model: Vector
    velocity: Vector | None = None
    combined: Vector | None = None
    draws: int = 0
