"""Neurotoxin: a backdoor in the coordinates that honest updates hardly change, so that they hardly undo it.

Knowledge K0: the liar's own records, and the global model that it is sent. Source: Zhang et al. 2022. Departures: the change is
projected after every epoch, where the authors project every step, because a task trains whole epochs; "rarely changed" is
judged by the last move of the global model, and in a liar's first round by its own clean change.
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.neurotoxin:make", options = {target = 0, ratio = 0.1}.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np

from edgehold.attacks.byzantine.backdoor import poisoned, replacing
from edgehold.attacks.byzantine.bent import OtherTraining, bent
from edgehold.attacks.byzantine.sight import LAST
from edgehold.attacks.byzantine.trigger import Trigger
from edgehold.attacks.byzantine.wrap import Memory, Minded, Remembering, delta_of, with_delta
from edgehold.core.contract import Adversary, ClientSide, Facts
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining, Task
from edgehold.core.vectors import Array, FloatArray, Vector

ROUNDS = "rounds"


@dataclass(frozen=True)
class Within(OtherTraining):
    """A task whose training may change only the coordinates of `mask`, (d,) bool."""

    mask: Array

    def train(self, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> FloatArray:
        """See `Task`; after every epoch (at the end with `how.steps`) other coordinates are what they were at the start."""
        weights = start
        for _ in range(1 if how.steps else how.epochs):
            part = how if how.steps else replace(how, epochs=1)
            weights = np.where(self.mask, self.task.train(weights, part, rng), start)
        return weights


def quiet(step: Array, ratio: float) -> Array:
    """(d,) bool: the round(ratio * d) coordinates, at least one, of the smallest size; equals in the order of their places."""
    mask = np.zeros(len(step), dtype=bool)
    mask[np.argsort(np.abs(step), kind="stable")[: max(1, round(ratio * len(step)))]] = True
    return mask


@dataclass(frozen=True)
class Toxin(Remembering):
    """The honest half on poisoned records, within the quiet coordinates. lies: rounds in which it lies; 0: all."""

    bend: Callable[[Task], Task]
    ratio: float
    norm: float
    boost: float
    lies: int

    def work(self, order: Any, local: Any, task: Task, rng: np.random.Generator) -> tuple[Any, Any, Facts]:
        """Honest work on bent records in part of the model; `ConfigError` where updates or orders carry no change or model."""
        memory: Memory = dict(local.memory)
        done = int(memory[ROUNDS][0]) if ROUNDS in memory else 0
        memory[ROUNDS] = np.array([done + 1])
        if self.lies and done >= self.lies:
            kept, update, facts = self.honest.work(order, local.local, task, rng)
            return Minded(kept, memory), update, facts
        carried = getattr(order, "model", None)
        if not isinstance(carried, Vector):
            raise ConfigError("this attack follows the global model, which this method's orders do not carry; choose another")
        model = carried.whole()
        if LAST in memory:
            step: Array = model.astype(np.float64) - memory[LAST]
        else:
            step = delta_of(self.honest.work(order, local.local, task, rng)[1]).whole()
        memory[LAST] = model
        within = Within(self.bend(task), quiet(step, self.ratio))
        kept, update, facts = self.honest.work(order, local.local, within, rng)
        lie = replacing(delta_of(update).whole(), self.boost, self.norm or None)
        return Minded(kept, memory), with_delta(update, lie), facts


def make(
    target: int = 0, share: float = 0.32, ratio: float = 0.1, norm: float = 0.2, boost: float = 1.0, size: int = 3,
    value: float | None = None, seed: int = 0, lies: int = 0,
) -> Adversary:  # fmt: skip
    """A backdoor to class `target` in few coordinates.

    share: of the records that are poisoned. ratio: share of the coordinates that may change; 1: a plain backdoor. norm: largest
    length of what is sent, after `boost`; 0: none. size, value: of the `Trigger`; seed: of the draw of records. lies: rounds
    after which it is honest, to see how long the backdoor lasts; 0: never.
    """
    if target < 0:
        raise ConfigError(f"target = {target}; a class, from 0 on")
    if lies < 0:
        raise ConfigError(f"lies = {lies}; rounds, or 0 for all")
    for name, number in (("share", share), ("ratio", ratio)):
        if not 0 < number <= 1:
            raise ConfigError(f"{name} = {number}; it must be above 0 and at most 1")
    if not (boost > 0 and isfinite(boost)):
        raise ConfigError(f"boost = {boost}; it must be above 0 and finite")
    if not (norm >= 0 and isfinite(norm)):
        raise ConfigError(f"norm = {norm}; it must be finite and not below 0 (0: no limit)")
    trigger = Trigger(size, value)

    def adversary(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        def bend(task: Task) -> Task:
            return bent(
                task,
                lambda x, y, rng: poisoned(x, y, trigger, target, share, None, rng),
                stream(seed, "backdoor", client),
            )

        return Toxin(honest, bend, ratio, norm, boost, lies)

    return adversary
