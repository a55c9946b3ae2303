"""Noise-robust ADMM on the device: one proximal step of the own problem in each round.

Source: Lari et al. 2024, arXiv:2409.13451, whose equations could not be read; the forms follow the authors' scripts and our own
derivation.
"""

import struct
from dataclasses import replace
from typing import cast

import numpy as np
from msgspec import structs

from edgehold.core.contract import Facts
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.rng import stream
from edgehold.core.tables import TableTask
from edgehold.core.task import LocalTraining, Task
from edgehold.core.vectors import FloatArray
from edgehold.defenses.noise_robust_admm.link import received, sent
from edgehold.defenses.noise_robust_admm.problems import Problem, problem_of
from edgehold.defenses.noise_robust_admm.state import Doubles, Local, Order, Update

_HEAD = struct.Struct("<qd")


class AdmmClient:
    """Keeps x and what its form needs beside it: the solution depends on them, so they must survive a restart."""

    def begin(self, order: Order, task: Task, rng: np.random.Generator) -> Local:
        """Nothing yet: the first work makes x."""
        nothing = np.zeros(task.schema.size)
        return Local(0, order.training.rho, nothing, nothing)

    def work(self, order: Order, local: Local, task: Task, rng: np.random.Generator) -> tuple[Local, Update, Facts]:
        """One round. `ConfigError` when the task poses no problem that the form can solve. Facts: the link's noise, and rho."""
        how, n = order.training, task.schema.size
        channel = stream(int(rng.integers(1 << 62)), "link")
        # The first model is where a run starts, not a message that crossed a link.
        noise = how.noise_down if order.round > 1 else 0.0
        heard = received(order.p, noise, channel)
        solver: Problem = (
            Network(task, order, rng) if not isinstance(task, TableTask) else problem_of(task, how.tolerance, how.inner_steps)
        )
        if order.own_units:
            order = in_own_units(order, solver)
        after, answer = STEPS[how.form](order, local, heard, solver, n)
        update = Update(sent(answer, how.noise_up, how.wire, channel), solver.curvature if order.own_units else 0.0)
        return after, update, {"channel_noise_up": how.noise_up, "channel_noise_down": noise, "penalty": after.rho}

    def dump(self, local: Local) -> bytes:
        """Round and rho in 16 bytes; then x and its companion as float64."""
        head = _HEAD.pack(local.round, local.rho)
        return head + local.x.astype("<f8").tobytes() + local.other.astype("<f8").tobytes()

    def load(self, data: bytes) -> Local:
        """Inverse of `dump`; `WrongShape` for other lengths."""
        if len(data) < _HEAD.size or (len(data) - _HEAD.size) % 16:
            raise WrongShape(f"local state of {len(data)} bytes; it is no state of noise_robust_admm")
        number, rho = _HEAD.unpack_from(data)
        both = np.frombuffer(data, dtype="<f8", offset=_HEAD.size)
        half = len(both) // 2
        return Local(number, rho, both[:half].copy(), both[half:].copy())


def in_own_units(order: Order, f: Problem) -> Order:
    """The order with rho as a number. What a device keeps says which; the next round's change to everybody's keeps the dual."""
    if not f.curvature > 0:
        raise ConfigError("all records of this device are zero, so that rho cannot count in its eigenvalues", field="rho_rule")
    return replace(order, training=structs.replace(order.training, rho=order.training.rho * f.curvature))


Step = tuple[Local, Doubles]


def anchored(order: Order, local: Local, p: Doubles, f: Problem, n: int) -> Step:
    """w += p - x; x = prox of f at w; sends 2 x - w. A first contact starts at w = p.

    Every x is the prox of the data at some w, so that the noise-free limit is the solution for any participation, and noise in
    w, which is inside what is sent, is cancelled by the next p. A change of rho keeps the dual rho (w - x).
    """
    rho, x, w = order.training.rho, local.x, local.other
    if local.round == 0:
        w = x = p
    else:
        w = x + local.rho / rho * (w - x) + p - x
    x = f.prox(w, np.zeros(n), rho, x)
    return Local(order.round, rho, x, w), 2 * x - w


def rerce(order: Order, local: Local, p: Doubles, f: Problem, n: int) -> Step:
    """x = argmin f(x) - <grad f(x before), x> + rho/2 |x - p|^2; for least squares x += rho B (p - x). Sends x."""
    rho = order.training.rho
    x = local.x if local.round else f.prox(np.zeros(n), np.zeros(n), rho, local.x)
    if order.round > 1:
        x = f.moved(x, p, rho)
    return Local(order.round, rho, x, local.other), x


def continual(order: Order, local: Local, p: Doubles, f: Problem, n: int) -> Step:
    """As `rerce`, but sends 2 x - x before, and in rounds it was not asked moves on with the p it heard last. At first that is
    0, where the run began: so do the authors' scripts. Those moves are made up for here, in the next round that asks: nobody
    sees them before.

    A device that comes late has not moved before it is asked. The limit would lie further off had it moved all the time, and
    further still if it said 2 x first (figures on the card).
    """
    rho = order.training.rho
    if local.round:
        x = f.moved(local.x, local.other, rho, order.round - local.round - 1)
    else:
        x = f.prox(np.zeros(n), np.zeros(n), rho, local.x)
        if order.round == 1:
            return Local(1, rho, x, np.zeros(n)), 2 * x
    after = f.moved(x, p, rho)
    return Local(order.round, rho, after, p), 2 * after - x


def dual(order: Order, local: Local, p: Doubles, f: Problem, n: int) -> Step:
    """Textbook ADMM: z += rho (x - s), x = argmin f + <z, x> + rho/2 |x - s|^2, each with a reception of s of its own. As in
    the other forms x is at first argmin f + rho/2 |x|^2, in whatever round a device is first asked.
    """
    rho, x, z = order.training.rho, local.x, local.other
    first, second = p[:n], p[n:]
    if not local.round:
        x = f.prox(np.zeros(n), np.zeros(n), rho, x)
        if order.round == 1:
            return Local(1, rho, x, z), x
    z = z + rho * (x - first)
    x = f.prox(second, -z, rho, x)
    return Local(order.round, rho, x, z), x


STEPS = {"anchored": anchored, "rerce": rerce, "continual": continual, "dual": dual}


class Network:
    """A PyTorch model's proximal step by SGD with the FedProx term, from the centre. The anchored form forgives its error."""

    def __init__(self, task: Task, order: Order, rng: np.random.Generator) -> None:
        how = order.training
        if how.form != "anchored":
            raise ConfigError(f'form = "{how.form}" needs exact gradients of a table task; use "anchored" for networks')
        if task.samples < 1:
            raise ConfigError("this device has no training records; give its task some or take it off the run")
        self._task, self._rng = task, rng
        self._how = LocalTraining(how.local_epochs, how.batch_size, how.learning_rate, proximal=how.rho)

    @property
    def curvature(self) -> float:
        """`ConfigError`."""
        raise ConfigError(
            'nobody knows the eigenvalues of a network: give rho itself, with rho_rule = "given"', field="rho_rule"
        )

    def gradient(self, x: Doubles) -> Doubles:
        """Never asked."""
        raise AssertionError("the anchored form asks for no gradient")

    def moved(self, x: Doubles, p: Doubles, rho: float, times: int = 1) -> Doubles:
        """Never asked."""
        raise AssertionError("the anchored form asks for no gradient")

    def prox(self, centre: Doubles, linear: Doubles, rho: float, start: Doubles) -> Doubles:
        """Weights after training from the centre; the loss is the mean over the records."""
        found = self._task.train(cast(FloatArray, centre.astype(np.float32)), self._how, self._rng)
        return found.astype(np.float64)


def client_side() -> AdmmClient:
    """The device half."""
    return AdmmClient()
