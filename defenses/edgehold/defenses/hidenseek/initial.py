"""The first weights of a HideNseek run: a random network, pruned once without data, beside the server's copy of the task."""

from typing import Any, cast

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.task import Task
from edgehold.core.vectors import FloatArray
from edgehold.defenses.hidenseek.state import Settings, drawn, kept_weights, weights_of
from edgehold.defenses.layers import layers_of


def initial(task: Task, settings: Settings, seed: int) -> FloatArray:
    """(n,) float32: K weights of the network that the seed draws, the rest 0.

    `ConfigError` when the task is no `TorchTask`, names a layer that cannot be pruned, or when pruning breaks the network:
    a layer with fewer weights than outputs, or with no path through it from input to output (unless `allow_broken`).
    """
    if not hasattr(task, "module"):
        raise ConfigError(f"HideNseek prunes PyTorch models; {type(task).__name__} is no TorchTask", field="run.task")
    from edgehold.core import torch_synflow  # loads torch, as the task has done already

    layers = layers_of(task.schema, "HideNseek")
    kept = kept_weights(settings.keep, task.schema)
    floors = [min(layer.edges, int(np.ceil(settings.floor * layer.edges))) for layer in layers]
    if sum(floors) > kept:
        raise ConfigError(
            f"method.floor = {settings.floor} reserves {sum(floors)} weights, but keep = {settings.keep} leaves {kept} of "
            f"{task.schema.size}; lower floor or raise keep",
            field="method.floor",
        )
    weights = np.concatenate([drawn(seed, number, layer.edges, layer.fan_in) for number, layer in enumerate(layers)])
    network = torch_synflow.Network(cast(Any, task))
    reserved = [(layer.place, floor) for layer, floor in zip(layers, floors, strict=True)]
    if settings.prune == "random":
        mask = torch_synflow.upper(stream(seed, "hidenseek", "prune").random(len(weights)), kept, reserved)
    else:
        mask = torch_synflow.prune(network, weights, kept, settings.prune_steps, reserved)
    if not settings.allow_broken:
        network.check(weights * mask, [(layer.name, layer.place, layer.edges // layer.fan_in) for layer in layers])
    return weights_of(seed, layers, mask)
