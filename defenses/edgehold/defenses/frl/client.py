"""FRL on the device: train scores of the fixed weights, send how they rank."""

from typing import Any, cast

import numpy as np

from edgehold.core.contract import Facts
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.task import Task
from edgehold.defenses.frl.state import Order, Update, ranks_by, scores_of, weights_of
from edgehold.defenses.layers import layers_of


class FrlClient:
    """Keeps nothing between rounds: the global order and the seed say where everybody's scores start."""

    def begin(self, order: Order, task: Task, rng: np.random.Generator) -> None:
        """No local state."""

    def work(self, order: Order, local: None, task: Task, rng: np.random.Generator) -> tuple[None, Update, Facts]:
        """Scores start at base by the global ranks, are trained, and their sizes ranked; equals in the order of their ids.

        `ConfigError` when the task is no `TorchTask`, has no records, or has parameters that cannot be ranked.
        """
        if not hasattr(task, "train_by"):
            raise ConfigError(f"FRL trains scores of PyTorch models; {type(task).__name__} is no TorchTask")
        if task.samples < 1:
            raise ConfigError("this device has no training records; give its task some or take it off the run")
        from edgehold.core import torch_masks  # loads torch, as the task has done already

        found = layers_of(task.schema, "FRL")
        how = order.training
        ranks = list(order.ranks)
        if [len(one) for one in ranks] != [layer.edges for layer in found]:
            raise WrongShape(f"the order has ranks of other layers than this device's {[x.name for x in found]}")
        weights = np.empty(task.schema.size, dtype=np.float32)
        scores = np.empty_like(weights)
        for number, (layer, here) in enumerate(zip(found, ranks, strict=True)):
            weights[layer.place] = weights_of(order.seed, number, layer.edges, layer.fan_in)
            scores[layer.place] = scores_of(order.seed, number, layer.edges, layer.fan_in, how.signed)[0][here]
        trained = torch_masks.train_scores(
            cast(Any, task),
            weights,
            scores,
            [(layer.place, layer.dropped(how.keep)) for layer in found],
            torch_masks.ScoreTraining(
                epochs=how.local_epochs,
                batch_size=how.batch_size,
                learning_rate=how.learning_rate * how.decay ** (order.round - 1),
                momentum=how.momentum,
                weight_decay=how.weight_decay,
            ),
            rng,
        )
        ranked = trained if how.signed else np.abs(trained)
        return None, Update(tuple(ranks_by(ranked[layer.place]) for layer in found), order.entropy, order.top), {}

    def dump(self, local: None) -> bytes:
        """Nothing."""
        return b""

    def load(self, data: bytes) -> None:
        """Nothing; `WrongShape` for anything else."""
        if data:
            raise WrongShape(f"local state of {len(data)} bytes; FRL keeps none")


def client_side() -> FrlClient:
    """The device half."""
    return FrlClient()
