"""What noise-robust ADMM is set to, what it sends, what comes back, what device and server keep."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgehold.core.config import Config
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Vector
from edgehold.defenses.memory import Memory

Doubles: TypeAlias = NDArray[np.float64]

WIRES = {"float32": "<f4", "float64": "<f8", "float16": "<f2"}
"""How numbers travel."""


class Training(Config, frozen=True, kw_only=True):
    """How each device works; the same bounds hold in a plan and in an order that reaches a device.

    form: "anchored" keeps w beside x, so that data enter in every round; "rerce" and "continual" are the paper's (with and
    without memory of all devices on the server); "dual" is textbook ADMM with two receptions, the control.
    rho: weight of the consensus; best near the mean eigenvalue of a device's A. noise_up, noise_down: standard deviation of
    the noise on every number of a transmission, beside what the wire itself rounds. wire: how numbers travel; "float16" is
    rounded up or down at random, so that the rounding has mean 0.
    tolerance, inner_steps: a loss without a closed form is minimised by Newton steps until the gradient is at most
    tolerance * rho * |x - w|, at most so many. local_epochs, batch_size, learning_rate: PyTorch models, by SGD.
    """

    form: Literal["anchored", "rerce", "continual", "dual"] = "anchored"
    rho: Annotated[float, msgspec.Meta(gt=0, le=1e12)] = 1.0
    noise_up: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    noise_down: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    wire: Literal["float32", "float64", "float16"] = "float32"
    tolerance: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    inner_steps: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    local_epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 32
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.1


class Settings(Training, frozen=True, kw_only=True):
    """The [method] table of a plan.

    rho_rule: "given", or "mean_eigenvalue": rho and late_rho count in mean eigenvalues of the devices' problems, of which the
    median over the first round's devices is taken; in that round each device counts in its own.
    late_rho, late_from: another rho from that round on (0: never); devices keep their dual over the change, which only the
    anchored form can. norm_limit: an update of a larger Euclidean norm is refused.
    """

    rho_rule: Literal["given", "mean_eigenvalue"] = "given"
    late_rho: Annotated[float, msgspec.Meta(ge=0, le=1e12)] = 0.0
    late_from: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    norm_limit: Annotated[float, msgspec.Meta(gt=0, le=1e30)] = 1e9

    def check(self, updates: int) -> None:
        """`ConfigError` for half a change of rho, or one that the form cannot follow."""
        if (self.late_rho > 0) != (self.late_from > 1):
            raise ConfigError(
                f"method.late_rho = {self.late_rho} and late_from = {self.late_from}; give both (late_from >= 2) or neither",
                field="method.late_from",
            )
        if self.late_rho and self.form != "anchored":
            raise ConfigError(
                f'method.late_rho: form = "{self.form}" holds its data only in its start, and would lose them; use "anchored"',
                field="method.late_rho",
            )
        if self.rho_rule != "given" and self.form != "anchored":
            raise ConfigError(
                f'method.rho_rule: form = "{self.form}" needs the same rho from its first step on, before any device has '
                'said what its eigenvalues are; give rho itself with rho_rule = "given", or use "anchored"',
                field="method.rho_rule",
            )

    def rho_of(self, number: int) -> float:
        """rho of a round, counted from 1."""
        return self.late_rho if self.late_from and number >= self.late_from else self.rho


def why_single(settings: Settings | None) -> str:
    """Why the server must look at single updates."""
    if settings is None or settings.form in ("anchored", "continual"):
        return "its server half remembers by name what each device sent last, and answers with the mean of it"
    return "the unit of its penalty is the median of what single devices say of their curvature"


@dataclass(frozen=True, slots=True)
class Order:
    """What a device is asked to do. p: what the server broadcasts, of the wire's type; twice (2n,) in the form "dual".

    own_units: the training's rho counts in mean eigenvalues of the device's own problem.
    """

    seed: int
    round: int
    training: Training
    p: Vector
    own_units: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """What a device answers. u: (n,) of the wire's type, with the noise of the link in it. curvature: mean eigenvalue of its
    problem where the order asks for it, else 0.
    """

    u: Vector
    curvature: float = 0.0


@dataclass(frozen=True, slots=True)
class Local:
    """What stays on the device. round: of its last work, 0 before any; rho: then. x: (n,). other: (n,), w ("anchored"), z
    ("dual") or the last p received, 0 at first ("continual").
    """

    round: int
    rho: float
    x: Doubles
    other: Doubles


@dataclass(frozen=True, slots=True)
class State:
    """model: the estimate, float32. closed: rounds behind us. s, before: (n,) float64, mean of the last two rounds. memory:
    what each device sent last, (n,); the forms with memory only. unit: what rho counts in; 0 while no device has said so.
    """

    model: Vector
    closed: int
    s: Vector
    before: Vector
    memory: Memory | None = None
    unit: float = 1.0
