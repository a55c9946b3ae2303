"""Sums of per-sample gradients, each clipped on its own, for any PyTorch model: what private training is made of.

Linear, convolution, embedding and normalisation layers are taken apart by hand: one pass forward, one back that computes no
gradient of any weight, and then norms and weighted sums from what went into each layer and what came back to it. A model with
any other layer that has parameters goes through Opacus, slower, with the same result within float32 rounding.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

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

    norms() gives (records,) squared norms of the gradients; sums(factors) takes (k, records), gives (k, n) for each parameter.
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
        self._wrapped: Any = None
        if not torch_layers.known(task.module):
            self._wrapped = _opacus(task.module)

    @property
    def by_hand(self) -> bool:
        """Whether every layer is one that needs no Opacus."""
        return self._wrapped is None

    def __call__(self, rows: Sequence[Array], clips: Sequence[float]) -> Array:
        """(len(clips), d) float64: for each clip C the sum over records of their gradient scaled down to norm C at most.

        rows: groups of record indices; a record that comes or goes may change its own group alone. An infinite clip
        clips nothing. A record whose gradient is not finite counts as absent: an error would tell of it.
        """
        found = torch.zeros(len(clips), self._size, dtype=torch.float64, device=self._task.device)
        limits = torch.tensor([clip * _SHY for clip in clips], dtype=torch.float32, device=self._task.device)
        self._task.module.train()
        for block in rows:
            for part in _parts(np.asarray(block)):
                self._add(found, part, limits)
        summed: Array = found.cpu().numpy()
        return summed

    def _add(self, found: Tensor, rows: Array, limits: Tensor) -> None:
        inputs, targets = self._task.records(rows)
        pieces = self._by_opacus(inputs, targets) if self._wrapped is not None else self._by_hand(inputs, targets)
        squares = torch.stack([piece.norms() for piece in pieces]).sum(0)
        finite = torch.isfinite(squares).cpu().numpy()
        if not finite.all():
            if finite.any():
                self._add(found, rows[finite], limits)
            return
        norms = squares.sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        factors = (limits[:, None] / norms[None, :]).clamp(max=1.0)
        for piece in pieces:
            for place, part in zip(piece.places, piece.sums(factors), strict=True):
                found[:, place] += part

    def _by_hand(self, inputs: Tensor, targets: Tensor) -> list[Piece]:
        records = len(inputs)
        with torch_layers.Watch(self._task.module) as watch:
            # The loss is a mean: times the records it is a sum, whose gradients are those of the single records.
            loss = self._task.loss(self._task.module(inputs), targets) * records
            loss.backward()  # type: ignore[no-untyped-call]
            return [
                Piece(tuple(self._places[id(p)] for p in seen.parameters), seen.norms, seen.sums)
                for seen in watch.seen(records)
            ]

    def _by_opacus(self, inputs: Tensor, targets: Tensor) -> list[Piece]:
        records, module = len(inputs), self._wrapped
        self._task.loss(module(inputs), targets).backward()  # type: ignore[no-untyped-call]
        pieces = []
        for parameter in module.parameters():
            samples = getattr(parameter, "grad_sample", None)
            if samples is None:  # frozen, or not used
                continue
            parameter.grad_sample = None
            flat = samples.reshape(records, -1)
            pieces.append(_whole(self._places[id(parameter)], flat))
        return pieces


def _parts(group: Array) -> Iterator[Array]:
    """Four blocks, and what is beyond them one by one: a record more moves four blocks at most (`sampling.SURCHARGE`)."""
    head = group[: 4 * BLOCK]
    for start in range(0, len(head), BLOCK):
        yield head[start : start + BLOCK]
    for at in range(4 * BLOCK, len(group)):
        yield group[at : at + 1]


def _whole(place: slice, samples: Tensor) -> Piece:
    """A parameter whose per-sample gradients stand written out, (records, n)."""
    return Piece((place,), lambda: samples.square().sum(1), lambda factors: (factors @ samples,))


def _opacus(module: nn.Module) -> Any:
    try:
        from opacus.grad_sample import GradSampleModule
    except ImportError:
        raise ConfigError(
            f"per-sample gradients of {torch_layers.unknown(module)} need Opacus: install edgehold[private]"
        ) from None
    try:
        return GradSampleModule(module, loss_reduction="mean")
    except NotImplementedError as error:
        raise ConfigError(f"this model has no per-sample gradients: {error}") from None
