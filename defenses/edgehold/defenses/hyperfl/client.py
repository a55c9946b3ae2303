"""HyperFL on the device: train the head, then hypernetwork and embedding; send the change of the hypernetwork alone."""

import hashlib
import secrets
from collections.abc import Callable
from math import prod, sqrt
from typing import Any, cast

import numpy as np

from edgehold.core.contract import Facts
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.hyper_layout import Layout
from edgehold.core.privacy.events import Event
from edgehold.core.privacy.noise import Noise, SystemNoise
from edgehold.core.privacy.release import clipped, noised, whole_vector
from edgehold.core.task import Task
from edgehold.core.vectors import Vector
from edgehold.defenses.hyperfl.state import Local, Order, Update, layout_of

Draw = Callable[[], bytes]
"""Bytes that nobody else knows."""


def _secret() -> bytes:
    return secrets.token_bytes(32)


class HyperFLClient:
    """Keeps embedding and head. draw: what they are drawn from beside the run's stream; by default the operating system.

    A run's stream depends on seed, run, round and client, all of which the server knows: values from it alone would be no
    secret. Tests and studies that must repeat pass a `draw` of their own; a device never does.
    """

    def __init__(self, draw: Draw = _secret, noise: Noise | None = None) -> None:
        self._draw = draw
        self._noise: Noise = noise or SystemNoise()

    def begin(self, order: Order, task: Task, rng: np.random.Generator) -> Local:
        """v ~ N(0, 1); the head as PyTorch starts a layer, uniform within +-1 / sqrt(fan_in)."""
        layout = layout_of(task.schema, order.training)
        chance = private_generator(rng, self._draw)
        v = chance.standard_normal(layout.embedding, dtype=np.float32)
        wide = [prod(tensor.shape[1:]) for tensor in layout.head if len(tensor.shape) > 1]
        bound = 1 / sqrt(max([1, *wide]))
        return Local(v, chance.uniform(-bound, bound, layout.head_size).astype(np.float32))

    def work(self, order: Order, local: Local, task: Task, rng: np.random.Generator) -> tuple[Local, Update, Facts]:
        """Both steps; then phi trained minus phi received, clipped and noisy where the order says so.

        Facts: the received phi on the device's own test records.

        `ConfigError` when the task is no `TorchTask`, has no records, or when not every tensor could be generated.
        """
        if not hasattr(task, "batches"):
            raise ConfigError(f"HyperFL generates weights of PyTorch models; {type(task).__name__} is no TorchTask")
        if task.samples < 1:
            raise ConfigError("this device has no training records; give its task some or take it off the run")
        from edgehold.core import torch_personal  # loads torch, as the task has done already

        how = order.training
        layout = layout_of(task.schema, how)
        _check(order, local, layout)
        start = order.phi.whole()
        model = torch_personal.Personal(cast(Any, task), layout, start, local.v, local.head, order.seed)
        scores = task.evaluate(model.weights())
        step = torch_personal.Sgd(how.head_epochs, how.batch_size, how.head_learning_rate, how.momentum, how.weight_decay)
        model.train_head(step, rng)
        step = torch_personal.Sgd(how.local_epochs, how.batch_size, how.learning_rate, how.momentum, how.weight_decay)
        model.train_hypernetwork(step, rng)
        # Training that blew up gives infinities here; the law refuses them at the other end, where it is counted.
        with np.errstate(over="ignore", invalid="ignore"):
            delta = np.subtract(model.phi, start, dtype=np.float32)
        samples = task.samples
        if how.noisy:
            # How many records there are is private too, then.
            delta, samples = noised(clipped(delta, how.noise_clip), how.sigma, self._noise).astype(np.float32), 1
        facts = {"own_accuracy": scores["accuracy"]} if "accuracy" in scores else {}
        return Local(model.v, model.head), Update(Vector.of(delta), samples), facts

    def charges(self, order: Order, local: Local, task: Task) -> tuple[Event, ...]:
        """The noisy change of phi, whatever records it comes from; nothing where the order asks for no noise."""
        how = order.training
        return (whole_vector(order.phi.size, how.noise_clip, how.sigma),) if how.noisy else ()

    def dump(self, local: Local) -> bytes:
        """Size of v in 4 bytes, then v and head; little-endian."""
        return len(local.v).to_bytes(4, "little") + local.v.astype("<f4").tobytes() + local.head.astype("<f4").tobytes()

    def load(self, data: bytes) -> Local:
        """Inverse of `dump`."""
        size = int.from_bytes(data[:4], "little")
        if len(data) < 4 + 4 * size or len(data) % 4:
            raise WrongShape(f"local state of {len(data)} bytes; HyperFL keeps 4 bytes, an embedding of {size} and a head")
        numbers = np.frombuffer(data, dtype="<f4", offset=4)
        return Local(numbers[:size], numbers[size:])


def private_generator(rng: np.random.Generator, draw: Draw) -> np.random.Generator:
    """A generator that nobody can follow who does not know what `draw` gave. rng: the run's stream, whose part keeps devices
    apart where a study's `draw` gives all of them the same.
    """
    key = hashlib.sha256(b"hyperfl private" + rng.bytes(32) + draw()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key[:16], dtype="<u8").astype(np.uint64)))


def _check(order: Order, local: Local, layout: Layout) -> None:
    if order.phi.size != layout.size:
        raise WrongShape(f"a hypernetwork of {order.phi.size} numbers; this device's model needs {layout.size}")
    if (len(local.v), len(local.head)) != (layout.embedding, layout.head_size):
        raise WrongShape(
            f"this device keeps an embedding of {len(local.v)} and a head of {len(local.head)} numbers; this order needs "
            f"{layout.embedding} and {layout.head_size}"
        )


def client_side() -> HyperFLClient:
    """The device half."""
    return HyperFLClient()
