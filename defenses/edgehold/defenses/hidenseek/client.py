"""HideNseek on the device: train latent scores of the fixed weights, send their signs."""

from typing import Any, cast

import numpy as np

from edgehold.core.contract import Facts
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.task import Task
from edgehold.core.vectors import Vector
from edgehold.defenses.hidenseek.packing import pack_bits
from edgehold.defenses.hidenseek.state import Order, Update, weights_of
from edgehold.defenses.layers import layers_of


class HideNseekClient:
    """Keeps nothing between rounds: seed, mask and votes say where everybody's scores start."""

    def begin(self, order: Order, task: Task, rng: np.random.Generator) -> None:
        """No local state."""

    def work(self, order: Order, local: None, task: Task, rng: np.random.Generator) -> tuple[None, Update, Facts]:
        """Scores start at the mean signs, are trained, and their signs sent; a score of 0 keeps the weight's own sign.

        `ConfigError` when the task is no `TorchTask`, has no records, or has parameters that cannot be masked.
        """
        if not hasattr(task, "train_by"):
            raise ConfigError(f"HideNseek trains scores of PyTorch models; {type(task).__name__} is no TorchTask")
        if task.samples < 1:
            raise ConfigError("this device has no training records; give its task some or take it off the run")
        from edgehold.core import torch_signs  # loads torch, as the task has done already

        layers = layers_of(task.schema, "HideNseek")
        if len(order.mask) != task.schema.size:
            raise WrongShape(f"a mask over {len(order.mask)} weights; this device's model has {task.schema.size}")
        how = order.training
        scores = torch_signs.train_signs(
            cast(Any, task),
            weights_of(order.seed, layers, order.mask),
            np.flatnonzero(order.mask),
            np.float32(how.start_size) * order.mean_signs(),
            torch_signs.SignTraining(how.local_epochs, how.batch_size, how.learning_rate, how.values == "mask"),
            rng,
        )
        return None, Update(Vector.of(pack_bits(scores >= 0))), {}

    def dump(self, local: None) -> bytes:
        """Nothing."""
        return b""

    def load(self, data: bytes) -> None:
        """Nothing; `WrongShape` for anything else."""
        if data:
            raise WrongShape(f"local state of {len(data)} bytes; HideNseek keeps none")


def client_side() -> HideNseekClient:
    """The device half."""
    return HideNseekClient()
