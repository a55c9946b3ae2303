"""Backdoors: train on records with a trigger and the attacker's label, then boost the update until it replaces the model.

Knowledge K0. Source: Gu et al. 2017 (trigger); Bagdasaryan et al. 2020 (model replacement, equation 3, and the loss that stays
close to the global model). Departure: that loss takes half the squared distance, which the task's own proximal term is.
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.backdoor:make", options = {target = 0, boost = 20.0}.
"""

from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np

from edgehold.attacks.byzantine.bent import Learner, OtherTraining, bent
from edgehold.attacks.byzantine.trigger import Trigger
from edgehold.attacks.byzantine.wrap import delta_of, with_delta
from edgehold.core.contract import Adversary, ClientSide
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining, Task
from edgehold.core.vectors import Array, FloatArray


@dataclass(frozen=True)
class Close(OtherTraining):
    """A task whose training weighs its loss with alpha and half the squared distance from the start with 1 - alpha."""

    alpha: float

    def train(self, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> FloatArray:
        """See `Task`: with alpha times the rate, and a pull of (1 - alpha) / alpha on top of the given one."""
        pull = how.proximal + (1.0 - self.alpha) / self.alpha
        return self.task.train(start, replace(how, learning_rate=how.learning_rate * self.alpha, proximal=pull), rng)


def poisoned(
    x: Array, y: Array, trigger: Trigger, target: int, share: float, part: int | None, rng: np.random.Generator
) -> tuple[Array, Array]:  # fmt: skip
    """Records of which round(share * n), drawn, carry the trigger and the label `target`."""
    some = np.sort(rng.choice(len(x), round(share * len(x)), replace=False))
    marked, labels = x.copy(), y.copy()
    # The mark's own value comes from all the device's images, so that few of them do not make it paler.
    value = trigger if trigger.value is not None else replace(trigger, value=float(x.max()) if x.size else 0.0)
    marked[some], labels[some] = value.stamp(x[some], part), target
    return marked, labels


def replacing(delta: Array, boost: float, norm: float | None) -> Array:
    """boost * delta, scaled down to `norm` where it is longer."""
    lie = boost * delta.astype(np.float64)
    size = float(np.linalg.norm(lie))
    return lie if norm is None or size <= norm else lie * (norm / size)


def make(
    target: int = 0, share: float = 0.32, boost: float = 1.0, alpha: float = 1.0, norm: float | None = None, size: int = 3,
    value: float | None = None, bars: bool = False, part: int | None = None, seed: int = 0,
) -> Adversary:  # fmt: skip
    """A backdoor to class `target`.

    share: of the records that are poisoned. boost: n / server learning rate replaces the model whole; 1: none. alpha: weight of
    the task against staying close, 1: task alone, 0.5 in the source. norm: largest length of what is sent. size, value, bars:
    of the `Trigger`; part: stamp only that bar (the distributed backdoor: another one on each liar). seed: of the draw of
    records.
    """
    if target < 0:
        raise ConfigError(f"target = {target}; a class, from 0 on")
    for name, number, upto in (("share", share, 1.0), ("alpha", alpha, 1.0), ("boost", boost, None), ("norm", norm, None)):
        if number is not None and not (number > 0 and isfinite(number) and (upto is None or number <= upto)):
            raise ConfigError(f"{name} = {number}; it must be above 0" + (f" and at most {upto:g}" if upto else " and finite"))
    if part is not None and not bars:
        raise ConfigError(f"part = {part} names one of four bars; set bars = true")
    trigger = Trigger(size, value, bars)

    def adversary(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        def bend(task: Task) -> Task:
            found = bent(
                task,
                lambda x, y, rng: poisoned(x, y, trigger, target, share, part, rng),
                stream(seed, "backdoor", client),
            )
            return found if alpha == 1.0 else Close(found, alpha)

        def boosted(update: Any) -> Any:
            if boost == 1.0 and norm is None:
                return update
            return with_delta(update, replacing(delta_of(update).whole(), boost, norm))

        return Learner(honest, bend, boosted)

    return adversary
