"""Sums of per-sample gradients, each clipped on its own, for any PyTorch model: what private training is made of.

Linear, convolution, embedding and normalisation layers are taken apart by hand: one pass forward, one back that computes no
gradient of any weight, and then norms and weighted sums from what went into each layer and what came back to it. A model with
any other layer that has parameters goes through Opacus, slower, with the same result within float32 rounding.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from edgehold.core import torch_layers
from edgehold.core.errors import ConfigError
from edgehold.core.privacy.sampling import BLOCK
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array

_SHY = 1.0 - 2.0**-16
"""Clipping aims so much lower, because a norm in float32 is off by a few units in its last places."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One layer of a block. places: of its parameters in the flat model, in the order in which `sums` returns them.

    norms() gives (records,) float64 squared norms of the gradients; sums(factors) takes (k, records) float32 and gives (k, n)
    for each parameter.
    """

    places: tuple[slice, ...]
    norms: Callable[[], Tensor]
    sums: Callable[[Tensor], Sequence[Tensor]]


class ClippedSums:
    """task: a `TorchTask` with training data. Sets the module to training mode when used."""

    def __init__(self, task: TorchTask) -> None:
        self._task, self._size = task, task.schema.size
        places: dict[int, slice] = {}
        at = 0
        for parameter in task.module.parameters():
            places[id(parameter)] = slice(at, at + parameter.numel())
            at += parameter.numel()
        self._places = places
        self._together = True
        self._watch = torch_layers.Watch(task.module)
        self._by_opacus = not torch_layers.known(task.module)
        if self._by_opacus:
            _opened(task.module).remove_hooks()  # says at once what is missing

    @property
    def by_hand(self) -> bool:
        """Whether every layer is one that needs no Opacus."""
        return not self._by_opacus

    def __call__(self, rows: Sequence[Array], clips: Sequence[float]) -> Array:
        """(len(clips), d) float64: for each clip C the sum over records of their gradient scaled down to norm C at most.

        rows: groups of record indices; a record that comes or goes may change its own group alone. An infinite clip
        clips nothing. A record whose gradient is not finite counts as absent: an error would tell of it.
        """
        found = torch.zeros(len(clips), self._size, dtype=torch.float64, device=self._task.device)
        limits = torch.tensor([clip * _SHY for clip in clips], dtype=torch.float64, device=self._task.device)
        self._task.module.train()
        for block in rows:
            for part in _parts(np.asarray(block)):
                self._add(found, part, limits)
        summed: Array = found.cpu().numpy()
        return summed

    def _add(self, found: Tensor, rows: Array, limits: Tensor) -> None:
        inputs, targets = self._task.records(rows)
        pieces = self._from_opacus(inputs, targets) if self._by_opacus else self._from_layers(inputs, targets)
        squares = torch.stack([piece.norms() for piece in pieces]).sum(0)
        finite = torch.isfinite(squares).cpu().numpy()
        if not finite.all():
            if finite.any():
                self._add(found, rows[finite], limits)
            return
        norms = squares.sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        factors = (limits[:, None] / norms[None, :]).clamp(max=1.0).float()
        parts = [pair for piece in pieces for pair in zip(piece.places, piece.sums(factors), strict=True)]
        parts.sort(key=lambda pair: pair[0].start)
        if sum(part.shape[1] for _, part in parts) == self._size:  # one addition instead of one per parameter
            found += torch.cat([part for _, part in parts], 1)
            return
        for place, part in parts:
            found[:, place] += part

    def _from_layers(self, inputs: Tensor, targets: Tensor) -> list[Piece]:
        with self._watch as watch:
            self._loss(self._task.module(inputs), targets).backward()  # type: ignore[no-untyped-call]
            return [
                Piece(tuple(self._places[id(p)] for p in seen.parameters), seen.norms, seen.sums)
                for seen in watch.seen(len(inputs))
            ]

    def _from_opacus(self, inputs: Tensor, targets: Tensor) -> list[Piece]:
        pieces = []
        opened = _opened(self._task.module)
        straight = [
            layer.register_forward_pre_hook(_in_one_piece)
            for layer in self._task.module.modules()
            if isinstance(layer, nn.Conv2d)
        ]
        try:
            with warnings.catch_warnings():
                # Of torch, about every first layer: nothing needs the gradient of its input.
                warnings.filterwarnings("ignore", "Full backward hook is firing")
                self._loss(opened(inputs), targets).backward()  # type: ignore[no-untyped-call]
            for parameter in self._task.module.parameters():
                samples = getattr(parameter, "grad_sample", None)
                if samples is not None:  # neither frozen nor unused
                    pieces.append(_whole(self._places[id(parameter)], samples.reshape(len(inputs), -1)))
        except RuntimeError as error:
            layer = torch_layers.unknown(self._task.module)
            raise ConfigError(
                f"{layer} has no per-sample gradients, not even through Opacus; write it with layers that have: {error}"
            ) from None
        finally:
            # Hooks that stay would note every other training of this module, and refuse to be set twice.
            opened.to_standard_module()
            for hook in straight:
                hook.remove()
        return pieces

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum over records of the loss of each alone: the mean over a batch may weigh a record by the others in it, where some
        targets are ignored or classes have weights, and then no clip bounds what one record does.
        """
        loss = self._task.loss
        if loss is functional.cross_entropy and outputs.dim() == 2 and targets.dim() == 1 and bool((targets >= 0).all()):
            return functional.cross_entropy(outputs, targets, reduction="sum")

        def alone(output: Tensor, target: Tensor) -> Tensor:
            return loss(output.unsqueeze(0), target.unsqueeze(0))

        if self._together:
            try:
                return vmap(alone)(outputs, targets).sum()
            except RuntimeError:  # looks at values, which one stack of all records has not
                self._together = False
        return torch.stack([alone(output, target) for output, target in zip(outputs, targets, strict=True)]).sum()


def _parts(group: Array) -> Iterator[Array]:
    """Four blocks, and what is beyond them one by one: a record more moves four blocks at most (`sampling.SURCHARGE`)."""
    head = group[: 4 * BLOCK]
    for start in range(0, len(head), BLOCK):
        yield head[start : start + BLOCK]
    for at in range(4 * BLOCK, len(group)):
        yield group[at : at + 1]


def _whole(place: slice, samples: Tensor) -> Piece:
    """A parameter whose per-sample gradients stand written out, (records, n)."""
    return Piece((place,), lambda: torch_layers.squares(samples), lambda factors: (factors @ samples,))


def _in_one_piece(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What goes into a convolution, channel by channel in memory: Opacus unfolds images by strides that it takes for those of
    this order, and gives other gradients, without a word, where images lie otherwise.
    """
    return tuple(part.contiguous() for part in inputs)


def _opened(module: nn.Module) -> Any:
    try:
        from opacus.grad_sample import GradSampleModule
    except ImportError:
        raise ConfigError(
            f"per-sample gradients of {torch_layers.unknown(module)} need Opacus: install edgehold[private]"
        ) from None
    try:
        return GradSampleModule(module, loss_reduction="sum")
    except NotImplementedError as error:
        raise ConfigError(f"this model has no per-sample gradients: {error}") from None
