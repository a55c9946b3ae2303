"""What DP-FedAvg is set to and what the server keeps. Orders and updates are FedAvg's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from edgehold.core.errors import ConfigError
from edgehold.defenses.baselines.fedavg import state as fedavg
from edgehold.defenses.baselines.fedavg.state import Order, Training, Update

__all__ = ["Order", "Settings", "State", "Training", "Update"]


class Settings(Training, frozen=True, kw_only=True):
    """The [method] table of a plan.

    clip_norm: C, largest norm of an update in the sum; the first one where it adapts. noise_multiplier: z; all that a round
    releases is (1/z)-GDP for each device. quantile: share of the updates that shall lie below C; 0: C stays. quantile_noise:
    deviation of the noise on their count, in devices; above z / 2. quantile_rate: how fast C follows: C exp(-rate (share below
    - quantile)). delta: for the epsilon that is reported.
    """

    clip_norm: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 1.0
    noise_multiplier: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 1.0
    quantile: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.5
    quantile_noise: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 1.0
    quantile_rate: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.2
    delta: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-5
    server_momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    server_learning_rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0

    def check(self, updates: int) -> None:
        """`ConfigError` when the count's noise takes all that z allows."""
        if self.quantile > 0 and 2 * self.quantile_noise <= self.noise_multiplier:
            raise ConfigError(
                f"quantile_noise = {self.quantile_noise} leaves nothing of noise_multiplier = {self.noise_multiplier} for the "
                f"sum; it must be above {self.noise_multiplier / 2:g}",
                field="quantile_noise",
            )

    @property
    def sum_multiplier(self) -> float:
        """z of the sum, larger than z where a count is released beside it: z_sum = (z^-2 - (2 quantile_noise)^-2)^(-1/2)."""
        if self.quantile == 0:
            return self.noise_multiplier
        return float((self.noise_multiplier**-2 - (2 * self.quantile_noise) ** -2) ** -0.5)

    def combining(self) -> fedavg.Settings:
        """FedAvg's settings for the step."""
        return fedavg.Settings(
            server_momentum=self.server_momentum, server_learning_rate=self.server_learning_rate, clip_norm=self.clip_norm
        )


@dataclass(frozen=True, slots=True)
class State:
    """combined: model and velocity; clip: C of the next round; rounds: how many updates of each client were in a sum."""

    combined: fedavg.State
    clip: float
    rounds: Mapping[str, int]
