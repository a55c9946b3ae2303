"""DP-EF SGD on the device: clipped sums of gradients plus the clipped error vector, noise on top, and nothing else leaves.

Source: Zhang, Bu, Wu, Hong 2024, arXiv:2311.14632 (DiceSGD), on sum scale. Departures: see README.md.
"""

import hashlib
import struct
from typing import Any, cast

import msgspec
import numpy as np

from edgehold.core.contract import Facts
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.privacy.events import Event
from edgehold.core.privacy.noise import Noise, SystemNoise
from edgehold.core.privacy.release import noised
from edgehold.core.privacy.sampling import GROUP, Words, in_bins, poisson, system_words
from edgehold.core.task import Task
from edgehold.core.vectors import Array, FloatArray, Vector
from edgehold.defenses.dp_ef_sgd.state import Local, Order, Training, Update

_HEAD = struct.Struct("<QQ32s32s")


class DpEfSgdClient:
    """noise, words: of the operating system. Others are of use in tests alone."""

    def __init__(self, noise: Noise | None = None, words: Words = system_words) -> None:
        self._noise: Noise = noise or SystemNoise()
        self._words = words

    def begin(self, order: Order, task: Task, rng: np.random.Generator) -> Local | None:
        """An error vector of zeros, where one lives on from round to round; else nothing. A round done again gives it the same
        name, under which it may have been charged already.
        """
        return _new(order, rng.bytes(32)) if order.training.lives_on else None

    def charges(self, order: Order, local: Local | None, task: Task) -> tuple[Event, ...]:
        """What this round will release."""
        order.training.must_be_sound()
        if not order.training.lives_on:
            return order.training.released(order.model.size)
        local = self._own(order, local)
        return order.training.released(order.model.size, local.steps, local.epochs, local.vector)

    def work(
        self, order: Order, local: Local | None, task: Task, rng: np.random.Generator
    ) -> tuple[Local | None, Update, Facts]:
        """The round's noisy steps. No fact is told: losses, shares clipped and batch sizes are private data too.

        `ConfigError` when the task is no `TorchTask` or has no records.
        """
        if not hasattr(task, "records"):
            raise ConfigError(f"private SGD needs gradients of single records; {type(task).__name__} is no TorchTask")
        if task.samples < 1:
            raise ConfigError("this device has no training records; give its task some or take it off the run")
        if order.model.size != task.schema.size:
            raise WrongShape(f"the order's model has {order.model.size} values; this device's has {task.schema.size}")
        from edgehold.core.torch_persample import ClippedSums  # loads torch, as the task has done already

        how, start = order.training, order.model.whole()
        kept = self._own(order, local) if how.lives_on else None
        descent = _Descent(how, start, kept.error if kept else None, self._noise)
        sums = ClippedSums(cast(Any, task))
        for epoch in self._batches(how, task.samples):
            if not how.lives_on:
                descent.forget()
            for batch in epoch:
                cast(Any, task).load(descent.weights.astype(np.float32))
                descent.step(sums(batch, descent.clips))
        delta = (descent.weights - start).astype(np.float32)
        if kept is not None:
            kept = Local(
                descent.error, kept.steps + how.steps_per_round, kept.epochs + how.local_epochs, kept.vector, kept.training
            )
        return kept, Update(Vector.of(delta)), {}

    def dump(self, local: Local | None) -> bytes:
        """Nothing, or counts, name, digest and the error vector as little-endian float64."""
        if local is None:
            return b""
        head = _HEAD.pack(local.steps, local.epochs, bytes.fromhex(local.vector), local.training)
        return head + local.error.astype("<f8").tobytes()

    def load(self, data: bytes) -> Local | None:
        """Inverse of `dump`."""
        if not data:
            return None
        if len(data) < _HEAD.size or (len(data) - _HEAD.size) % 8:
            raise WrongShape(f"local state of {len(data)} bytes; an error vector has {_HEAD.size} and 8 per value")
        steps, epochs, vector, training = _HEAD.unpack_from(data)
        return Local(np.frombuffer(data, "<f8", offset=_HEAD.size), steps, epochs, vector.hex(), training)

    def _own(self, order: Order, local: Local | None) -> Local:
        """The error vector as it stands; a new one where the order's settings are not those it was made under. Its name follows
        from what is there, so that `charges` and `work` mean the same vector.
        """
        if local is not None and local.training == _digest(order.training) and len(local.error) == order.model.size:
            return local
        before = bytes.fromhex(local.vector) if local is not None else order.model.whole().tobytes()
        return _new(order, hashlib.sha256(before + _digest(order.training)).digest())

    def _batches(self, how: Training, records: int) -> list[list[list[Array]]]:
        """By epoch (or round) the batches, each in groups of records."""
        groups = max(1, int(-(-how.batch_size // GROUP)))
        if how.sampling == "poisson":
            return [poisson(records, how.rate, how.steps, groups, self._words)]
        return [in_bins(records, how.bins, groups, self._words) for _ in range(how.local_epochs)]


class _Descent:
    """Weights and error vector of one device, in float64. Its weights are a function of what is released alone."""

    def __init__(self, how: Training, start: FloatArray, error: Array | None, noise: Noise) -> None:
        self._how, self._noise = how, noise
        self.weights: Array = start.astype(np.float64)
        self.error: Array = np.zeros(len(start)) if error is None else error.copy()
        self._velocity: Array | None = np.zeros(len(start)) if how.momentum else None
        self.clips = (min(how.clip, how.ceiling), how.ceiling) if how.feeds_back else (how.clip,)

    def forget(self) -> None:
        self.error[:] = 0.0

    def step(self, sums: Array) -> None:
        """sums: of the batch's gradients, clipped at `clip` and, with error feedback, at `ceiling`."""
        how = self._how
        total = sums[0]
        if how.feeds_back:
            norm = float(np.linalg.norm(self.error))
            fed = self.error if norm <= how.error_clip else self.error * (how.error_clip / norm)
            total = total + fed
            # What was computed and not sent, without any noise.
            self.error += sums[1]
            self.error -= total
        # From here on everything is a function of what an observer may see.
        noisy = noised(total, how.sigma, self._noise)
        if self._velocity is not None:
            self._velocity = how.momentum * self._velocity + noisy
            noisy = self._velocity
        self.weights = self.weights - (how.learning_rate / how.batch_size) * noisy


def _new(order: Order, name: bytes) -> Local:
    return Local(np.zeros(order.model.size), 0, 0, name.hex(), _digest(order.training))


def _digest(training: Training) -> bytes:
    return hashlib.sha256(msgspec.json.encode(training, order="sorted")).digest()


def client_side() -> DpEfSgdClient:
    """The device half."""
    return DpEfSgdClient()
