"""What FLORAL is set to, what it sends, what a device keeps, what the server keeps."""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgehold.core.config import Config
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Vector
from edgehold.defenses.baselines.fedavg import state as fedavg
from edgehold.defenses.baselines.fedavg.state import Update
from edgehold.defenses.floral.features import Head
from edgehold.defenses.floral.game import Rules

__all__ = ["Local", "Order", "Settings", "State", "Training", "Update", "agree"]


class Training(Config, frozen=True, kw_only=True):
    """The features and the game; the same bounds hold in a plan and in an order.

    features, gamma, count, feature_seed: of the head that everybody trains, to be the same as in every device's task (with
    "nystrom" the task's landmarks say the rest, and there is no seed).
    cost: C of the support vector machine. step: of its dual weights; 0: 0.3 over the kernel's largest eigenvalue. plays: rounds
    of the game within one round of the run. flips: labels that the simulated attacker flips in each; budget: among so many of
    the weightiest records; 0: twice the flips. Both below 1: share of a device's records; from 1 on: how many. flips = 0:
    nobody attacks, the control.
    mode: "one_shot": a device's head is its own; "coupled": it adds to the head it received. readout: "averaged" over the last
    two thirds of the game, or the "last" round. form: "exact", or "released": what the authors' code does.
    """

    features: Literal["fourier", "nystrom"] = "fourier"
    gamma: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 0.1
    count: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 512
    feature_seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    cost: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 10.0
    step: Annotated[float, msgspec.Meta(ge=0, le=1e3)] = 0.0
    plays: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 150
    flips: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.05
    budget: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    mode: Literal["one_shot", "coupled"] = "one_shot"
    readout: Literal["averaged", "last"] = "averaged"
    form: Literal["exact", "released"] = "exact"

    def sound(self) -> None:
        """`ConfigError` for a flip or budget that is neither share nor count, or for more flips than the budget has."""
        for name in ("flips", "budget"):
            value = getattr(self, name)
            if value >= 1 and value != int(value):
                raise ConfigError(
                    f"method.{name} = {value}; write a share of the records below 1, or a whole number of them",
                    field=f"method.{name}",
                )
        if self.budget and (self.flips < 1) == (self.budget < 1) and self.flips > self.budget:
            raise ConfigError(
                f"method.flips = {self.flips:g} of a budget of {self.budget:g}; flips are drawn from the budget, which must be "
                "at least as large (0: twice the flips)",
                field="method.budget",
            )

    def rules(self, records: int) -> Rules:
        """The game over that many records; `ConfigError` where there are fewer of them than flips, or than the budget needs."""
        flips = round(self.flips * records) if self.flips < 1 else int(self.flips)
        budget = 2 * flips if not self.budget else round(self.budget * records) if self.budget < 1 else int(self.budget)
        if flips > records:
            raise ConfigError(
                f"flips = {self.flips:g}, but this device has {records} training records; a share, such as 0.05, fits all",
                field="method.flips",
            )
        if flips > budget:
            raise ConfigError(
                f"{flips} flips of a budget of {budget} among {records} training records; give both as shares or as counts",
                field="method.budget",
            )
        return Rules(
            self.cost, self.plays, flips, min(budget, records), self.step, self.readout == "averaged", self.form == "released"
        )


class Settings(Training, frozen=True, kw_only=True):
    """The [method] table of a FLORAL plan. rule, rule_options, liars, clip_norm: as in FedAvg's, on heads."""

    rule: str = "average"
    rule_options: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)
    liars: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    clip_norm: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None

    def check(self, updates: int) -> None:
        """`ConfigError` when flips or budget make no sense, or rule or options cannot withstand `liars` among that many
        updates.
        """
        self.sound()
        self.folding().check(updates)

    def folding(self) -> fedavg.Settings:
        """How heads are combined: FedAvg's settings for it."""
        return fedavg.folding(self)


def agree(how: Training, head: Head, side: str) -> None:
    """`ConfigError` where the plan's features are not those of a model; the message says what each has. side: whose model."""
    for name, asked, found in (
        ("features", how.features, head.kind),
        ("gamma", how.gamma, head.gamma),
        ("count", how.count, head.count),
        ("feature_seed", str(how.feature_seed) if head.kind == "fourier" else head.mark, head.mark),
    ):
        if asked != found:
            raise ConfigError(
                f"method.{name} = {asked}, but the head of {side} has {found}; plan and tasks must name the same features",
                field=f"method.{name}",
            )


@dataclass(frozen=True, slots=True)
class Order:
    """What a device is asked to do. head: (schema.size,) float32, the received one; seed: training seed of the run."""

    head: Vector
    training: Training
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """What never leaves a device. key: of the generator that its attacker draws from; played: rounds of the game so far, which
    are the generator's place; signed: (n, c) float64, dual weight times label after the last of them.
    """

    key: NDArray[np.uint64]
    played: int
    signed: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class State:
    """heads: the global head and what the rule remembers, as FedAvg keeps a model."""

    heads: fedavg.State
