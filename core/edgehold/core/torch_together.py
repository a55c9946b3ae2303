"""SGD on many small PyTorch models at once: their weights lie stacked, one step moves them all.

For a small model the cost of a step is Python's, not arithmetic's, and it is paid once per step here instead of once per
step and client. Measured on one core (forward, backward and step, batch 32): 100 models of 4,810 values take 2.1 times
less, 50 of them 1.8 times; with 50,890 values (800 stacked ones no longer fit the cache) it takes longer than one by
one, and so do convolutions. Hence the limits below; whoever is outside trains one by one.

The sums are the same in another order: results equal `TorchTask.train` within float32 rounding (tests: 1e-5 of the largest
weight after several epochs), not bit for bit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from edgehold.core.task import LocalTraining
from edgehold.core.vectors import Array, FloatArray

LARGEST_MODEL = 16_384
"""Values a model may have."""
FEWEST = 16
"""Models below which it does not pay."""
TOLERANCE = 1e-4
"""The first model of each group is also trained alone for one step; a step that differs by more than this share of its
largest change means that the model or its loss is not what it seems (say, the loss is no mean over the records)."""

_CROSSING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm, nn.RNNBase)
"""Layers that draw random numbers, mix records of a batch, or cannot be stacked."""

Loss = Callable[[Tensor, Tensor], Tensor]


def stackable(module: nn.Module) -> bool:
    """Whether models like this one can be stacked and it may pay."""
    parameters = list(module.parameters())
    return (
        sum(p.numel() for p in parameters) <= LARGEST_MODEL
        and all(p.dim() <= 2 for p in parameters)  # convolutions get slower
        and not any(isinstance(part, _CROSSING) for part in module.modules())
    )


def likeness(module: nn.Module) -> str:
    """Equal for modules that compute the same with the same weights, as far as can be seen."""
    kinds = [f"{type(part).__module__}.{type(part).__qualname__}" for part in module.modules()]
    return f"{module!r} {kinds} {[(n, tuple(p.shape), p.requires_grad) for n, p in module.named_parameters()]}"


def train(
    module: nn.Module,
    loss: Loss,
    frozen: Sequence[slice],
    data: Sequence[tuple[Tensor, Tensor]],
    starts: Sequence[FloatArray],
    how: LocalTraining,
    rows: Sequence[Sequence[Array]],
) -> list[FloatArray]:
    """Weights of every model after its own training.

    module: gives the computation, its weights are left alone; data: (inputs, targets) per model; starts: (d,) per model;
    rows: batches per model. A model that has fewer batches than others stops earlier; short batches are padded with rows
    that weigh nothing.
    """
    # Most batches first: those still at work are then the first rows of every stack.
    turn = sorted(range(len(data)), key=lambda one: -len(rows[one]))
    offsets = np.cumsum([0, *(len(data[one][0]) for one in turn)])
    inputs = torch.cat([data[one][0] for one in turn])
    targets = torch.cat([data[one][1] for one in turn])
    flat = torch.from_numpy(np.array([starts[one] for one in turn], dtype=np.float32))
    anchor = flat.clone() if how.proximal else None
    velocity = torch.zeros_like(flat) if how.momentum else None
    gradients = vmap(grad(_objective(module, loss)), randomness="error")
    module.train()
    for step in range(len(rows[turn[0]])):
        now = [rows[one][step] for one in turn if len(rows[one]) > step]
        active, width = len(now), max(len(batch) for batch in now)
        places = np.zeros((active, width), dtype=np.int64)
        shares = np.zeros((active, width), dtype=np.float32)
        for place, batch in enumerate(now):
            places[place] = offsets[place]
            places[place, : len(batch)] += batch
            shares[place, : len(batch)] = 1.0 / len(batch)
        chosen = torch.from_numpy(places)
        here = flat[:active]
        gradient = gradients(here, inputs[chosen], targets[chosen], torch.from_numpy(shares))
        if how.weight_decay:
            gradient.add_(here, alpha=how.weight_decay)
        if anchor is not None:
            gradient.add_(here - anchor[:active], alpha=how.proximal)
        for layer in frozen:
            gradient[:, layer].zero_()
        move = gradient if velocity is None else velocity[:active].mul_(how.momentum).add_(gradient)
        here.add_(move, alpha=-how.learning_rate)
    done: list[FloatArray] = [np.empty(0, np.float32)] * len(data)
    for place, one in enumerate(turn):
        done[one] = flat[place].numpy().copy()
    return done


def _objective(module: nn.Module, loss: Loss) -> Callable[..., Tensor]:
    """(weights (d,), inputs, targets, shares) -> the sum of shares times the loss of each record."""
    named = [(name, p.shape, p.numel()) for name, p in module.named_parameters()]

    def one(output: Tensor, target: Tensor) -> Tensor:
        return loss(output.unsqueeze(0), target.unsqueeze(0))

    def objective(weights: Tensor, inputs: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        parameters: dict[str, Any] = {}
        at = 0
        for name, shape, size in named:
            parameters[name] = weights[at : at + size].view(shape)
            at += size
        each = vmap(one)(functional_call(module, parameters, (inputs,)), targets)
        # A padded row must not spoil the sum even where its loss is infinite.
        return torch.where(shares > 0, each * shares, torch.zeros_like(each)).sum()

    return objective
