"""What private SGD with error feedback is set to, what it sends, what comes back, what both sides keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isinf
from typing import Annotated, Literal

import msgspec

from edgehold.core.config import Config
from edgehold.core.errors import ConfigError
from edgehold.core.privacy.events import ErrorFeedback, Event, Gaussian, SampledGaussian
from edgehold.core.privacy.noise import gap
from edgehold.core.privacy.release import grid_shift
from edgehold.core.privacy.sampling import SURCHARGE
from edgehold.core.vectors import Array, Vector
from edgehold.defenses.baselines.fedavg import state as fedavg


class Training(Config, frozen=True, kw_only=True):
    """How each device trains; the same bounds hold in a plan and in an order that reaches a device.

    clip: C1, largest norm of a gradient in a sum; error_clip: C2, of the error vector in a sum; inf: none; 0: no feedback;
    ceiling: G, hard bound on each gradient before anything else; inf: none. noise_multiplier: deviation of the noise over clip,
    on sum scale. batch_size: what sums are divided by, a constant, never the number of records drawn.
    sampling "bins": each epoch deals every record into one of `bins` batches; "poisson": each of `steps` batches takes each
    record with probability `rate`. reset: the error vector starts anew with each epoch (bins) or round (poisson).
    momentum: of the noisy sums.
    """

    clip: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 1.0
    error_clip: Annotated[float, msgspec.Meta(ge=0)] = inf
    ceiling: Annotated[float, msgspec.Meta(gt=0)] = 3.0
    noise_multiplier: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 1.0
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 0.1
    batch_size: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 32.0
    sampling: Literal["bins", "poisson"] = "bins"
    local_epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    bins: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10
    steps: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10
    rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    reset: bool = True
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0

    @property
    def sigma(self) -> float:
        """Deviation of the noise on each coordinate of a sum."""
        return self.noise_multiplier * self.clip

    @property
    def feeds_back(self) -> bool:
        """Whether there is an error vector at all; without one this is plain DP-SGD."""
        return self.error_clip > 0

    @property
    def lives_on(self) -> bool:
        """Whether the error vector goes from round to round."""
        return self.feeds_back and not self.reset

    @property
    def steps_per_round(self) -> int:
        """Noisy sums that a device releases in a round."""
        return self.local_epochs * self.bins if self.sampling == "bins" else self.steps

    def must_be_sound(self) -> None:
        """`ConfigError` when the values cannot belong together, or when no accountant could say what they cost."""
        if not self.feeds_back:
            return
        if self.ceiling < self.clip:
            raise ConfigError(
                f"ceiling = {self.ceiling} is below clip = {self.clip}; it bounds what clip leaves over", field="ceiling"
            )
        if isinf(self.ceiling) and isinf(self.error_clip):
            raise ConfigError(
                "ceiling = inf and error_clip = inf: nothing bounds what a record leaves in the error vector, so no epsilon "
                "can be certified. Set ceiling (recommended, for example 3 x clip), or error_clip",
                field="ceiling",
            )

    def released(self, size: int, steps_before: int = 0, epochs_before: int = 0, vector: str = "") -> tuple[Event, ...]:
        """What a round of a model with `size` values releases, for the ledger. before: of the same error vector."""
        sampler = gap(self.steps_per_round * size)
        grid, sigma, clip = grid_shift(size), self.sigma, self.clip * (1 + SURCHARGE)
        if not self.feeds_back:
            sensitivity = clip + grid * sigma
            if self.sampling == "poisson":
                return (SampledGaussian(
                    sensitivity=sensitivity, sigma=sigma, rate=self.rate, steps=self.steps, sampler=sampler
                ),)  # fmt: skip
            return (Gaussian(sensitivity=sensitivity, sigma=sigma, releases=self.local_epochs, sampler=sampler),)
        # Rounding in both sums of a record's group can come to rest in the error vector.
        ceiling = self.ceiling + SURCHARGE * (self.ceiling + 2 * self.clip)
        return (ErrorFeedback(
            clip=clip, error_clip=self.error_clip, ceiling=ceiling, sigma=sigma, sampling=self.sampling, rate=self.rate,
            steps=self.steps_per_round, epochs=self.local_epochs, reset=self.reset, earlier_steps=steps_before,
            earlier_epochs=epochs_before, vector=vector, grid=grid, sampler=sampler,
        ),)  # fmt: skip


class Settings(Training, frozen=True, kw_only=True):
    """The [method] table of a plan. delta: for the epsilon that is reported; the rest: see FedAvg's settings."""

    delta: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-5
    rule: str = "average"
    rule_options: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)
    liars: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    server_momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    server_learning_rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0
    clip_norm: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None

    def check(self, updates: int) -> None:
        """`ConfigError` for values that cannot belong together, or a rule that cannot work with so many updates."""
        self.must_be_sound()
        self.combining().check(updates)

    def training(self) -> Training:
        """What devices are told of it."""
        return Training(**{name: getattr(self, name) for name in Training.__struct_fields__})

    def combining(self) -> fedavg.Settings:
        """How the server combines what devices send: FedAvg's way."""
        names = ("rule", "rule_options", "liars", "server_momentum", "server_learning_rate", "clip_norm")
        return fedavg.Settings(**{name: getattr(self, name) for name in names})


class PlainSettings(Settings, frozen=True, kw_only=True):
    """The [method] table of a plan for DP-SGD: no error vector, Poisson sampling unless told otherwise."""

    error_clip: Annotated[float, msgspec.Meta(ge=0, le=0)] = 0.0
    sampling: Literal["bins", "poisson"] = "poisson"


@dataclass(frozen=True, slots=True)
class Order:
    """What a device is asked to do. model: (schema.size,) float32; seed: training seed of the run, for the streams of methods;
    nothing private is drawn from it.
    """

    model: Vector
    training: Training
    seed: int


@dataclass(frozen=True, slots=True)
class Update:
    """What a device answers. delta: noisy local model minus the global one, (schema.size,) float32. Nothing tells how many
    records there are: their number is private too.
    """

    delta: Vector
    norm: float | None = None


@dataclass(frozen=True, slots=True)
class Local:
    """Stays on the device. error: (schema.size,) float64, what clipping has kept back so far; steps, epochs: released with it;
    vector: its name in the ledger; training: digest of the settings it belongs to, with others it starts anew.
    """

    error: Array
    steps: int
    epochs: int
    vector: str
    training: bytes


@dataclass(frozen=True, slots=True)
class State:
    """combined: the model and what the rule remembers; rounds: how many updates of each client were admitted in this run."""

    combined: fedavg.State
    rounds: Mapping[str, int]
