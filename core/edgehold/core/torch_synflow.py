"""Pruning at initialisation without data: synaptic saliency of a network whose weights are all taken positive.

Source: Tanaka et al. 2020, "SynFlow", arXiv:2006.05467.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from edgehold.core import torch_masks
from edgehold.core.errors import ConfigError
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array

# What keeps a positive input positive and scales with it, so that every layer's saliencies add up to the same output.
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ReLU, nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d)
_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.BatchNorm1d, nn.BatchNorm2d)

Places = Sequence[tuple[slice, int]]
"""Where each layer lies in the flat model, and how many of its weights must be left."""


class Network:
    """The model of a task as a positive network in float64, for one all-ones record; norms are left out of it.

    `ConfigError` names a parameter that is no weight of a linear or convolution layer, or a layer that has no saliency.
    """

    def __init__(self, task: TorchTask) -> None:
        torch_masks.check(task.module)
        shape, dtype = task.record()
        if not dtype.is_floating_point:
            raise ConfigError(f"records are {dtype}; a saliency needs numbers that a layer can scale, not names of tokens")
        self._input = torch.ones((1, *shape), dtype=torch.float64)
        self._module = _positive(copy.deepcopy(task.module).cpu(), "").double().eval()
        self._parameters = list(self._module.parameters())

    def scores(self, weights: Array) -> Array:
        """|w dR/dw| with R the sum of outputs of the network of |weights|, (n,) float64. Neither data nor signs matter."""
        sizes = torch.from_numpy(np.abs(np.asarray(weights, dtype=np.float64)))
        at = 0
        for parameter in self._parameters:
            parameter.data = sizes[at : at + parameter.numel()].view(parameter.shape).clone()
            parameter.grad = None
            at += parameter.numel()
        self._module(self._input).sum().backward()
        found = [(p.data * p.grad).reshape(-1) if p.grad is not None else torch.zeros(p.numel()) for p in self._parameters]
        scores = torch.cat(found).abs().numpy()
        if not np.isfinite(scores).all():
            raise ConfigError(
                "the saliency overflows even float64: the network is too deep for it, or its weights are too large"
            )
        return np.asarray(scores)

    def check(self, weights: Array, layers: Sequence[tuple[str, slice, int]]) -> None:
        """`ConfigError` names the layers that pruning broke. layers: name, place in the flat model, and number of outputs.

        Broken is a layer with nothing left, with fewer weights than outputs, or with no path through it from input to output.
        """
        broken = [
            f"{left} of {place.stop - place.start} weights of layer {name}, which has {outputs} outputs"
            for name, place, outputs in layers
            if (left := int(np.count_nonzero(weights[place]))) < outputs
        ]
        if not broken:
            scores = self.scores(weights)
            broken = [f"no path through layer {name}" for name, place, _ in layers if not scores[place].any()]
        if broken:
            raise ConfigError(
                f"pruning leaves {broken[0]}: the network can hardly learn; raise keep, set floor (such as 0.02) or "
                "prune_steps = 100, or set allow_broken = true to try it all the same",
                field="method.keep",
            )


def prune(network: Network, weights: Array, kept: int, steps: int, reserved: Places) -> Array:
    """(n,) bool: the `kept` weights that are left. reserved: of each layer at least so many stay.

    One step keeps the upper scores at once; of several, step k of T keeps n (kept / n)^(k / T) by scores of what is left then.
    Equal scores go by place.
    """
    mask = np.ones(len(weights), dtype=bool)
    for step in range(1, steps + 1):
        left = kept if step == steps else max(kept, round(len(weights) * (kept / len(weights)) ** (step / steps)))
        scores = network.scores(weights * mask)
        scores[~mask] = -1.0
        mask = upper(scores, left, reserved)
    return mask


def upper(scores: Array, kept: int, reserved: Places) -> Array:
    """(n,) bool: the `kept` largest scores, the reserved number of each layer's own largest before all others."""
    first = np.zeros(len(scores), dtype=bool)
    for place, number in reserved:
        first[place.start + np.argsort(-scores[place], kind="stable")[:number]] = True
    order = np.lexsort((np.arange(len(scores)), -scores, ~first))
    mask = np.zeros(len(scores), dtype=bool)
    mask[order[:kept]] = True
    return mask


def _positive(module: nn.Module, path: str) -> nn.Module:
    if isinstance(module, _NORMS):
        return nn.Identity()
    children = list(module.named_children())
    if not children and not isinstance(module, (*_PLAIN, *_POOLS, *_ADAPTIVE)):
        raise ConfigError(
            f"layer {path or 'the model itself'} is a {type(module).__name__}, which has no saliency; use linear, convolution, "
            "ReLU, pooling, flatten, dropout and normalisation layers"
        )
    for name, child in children:
        setattr(module, name, _positive(child, f"{path}.{name}" if path else name))
    return module
