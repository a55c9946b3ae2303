"""Per-sample gradients of single layers from what went in and what came back, written out only where that is cheap.

Sources: Goodfellow 2015, arXiv:1510.01799 (norms of linear layers); Bu et al. 2023, "Differentially private optimization on
large model at small cost" (sums from the same two tensors, no second pass).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgehold.core.errors import ConfigError

Norms = Callable[[], Tensor]
Sums = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class Seen:
    """parameters: those that are trained; norms, sums: see `torch_persample.Piece`."""

    parameters: tuple[nn.Parameter, ...]
    norms: Norms
    sums: Sums


def known(module: nn.Module) -> bool:
    """Whether every layer with trained parameters can be taken apart here."""
    return not unknown(module)


def unknown(module: nn.Module) -> str:
    """Name and kind of the first layer that cannot; "" when there is none."""
    owners: dict[int, str] = {}
    for name, layer in module.named_modules():
        for parameter in layer.parameters(recurse=False):
            if id(parameter) in owners:
                return f"layer {name} (shares a parameter with {owners[id(parameter)]})"
            owners[id(parameter)] = name
        trained = [p for p in layer.parameters(recurse=False) if p.requires_grad]
        if trained and (type(layer) not in _KINDS or (isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros")):
            return f"layer {name or 'at the top'} ({type(layer).__name__})"
    return ""


class Watch:
    """While open, layers note their inputs and the gradients of their outputs, and no gradient of a weight is computed."""

    def __init__(self, module: nn.Module) -> None:
        self._layers = [
            (layer, tuple(p for p in layer.parameters(recurse=False) if p.requires_grad))
            for layer in module.modules()
            if any(p.requires_grad for p in layer.parameters(recurse=False))
        ]
        self._inputs: dict[nn.Module, Tensor] = {}
        self._returned: dict[nn.Module, Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> "Watch":
        for layer, parameters in self._layers:
            for parameter in parameters:
                parameter.requires_grad_(False)
            self._hooks.append(layer.register_forward_hook(self._forward))
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()
        for _, parameters in self._layers:
            for parameter in parameters:
                parameter.requires_grad_(True)

    def seen(self, records: int) -> list[Seen]:
        """What the layers that took part saw of so many records."""
        found = []
        for layer, parameters in self._layers:
            if layer not in self._returned:
                continue
            inputs, back = self._inputs[layer], self._returned[layer]
            if len(inputs) != records or len(back) != records:
                raise ConfigError(
                    f"{type(layer).__name__} was given {tuple(inputs.shape)} for {records} records; per-sample gradients need "
                    "one row per record in every layer"
                )
            norms, sums = _KINDS[type(layer)](layer, inputs.detach(), back)
            mine = {id(p) for p in parameters}
            named = [p for p in (getattr(layer, "weight", None), getattr(layer, "bias", None)) if p is not None]
            if len(mine) != len(named):  # a frozen one is left out of both
                keep = [id(p) in mine for p in named]
                norms, sums = _chosen(norms, sums, keep)
                named = [p for p, kept in zip(named, keep, strict=True) if kept]
            found.append(Seen(tuple(named), _total(norms), sums))
        return found

    def _forward(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if layer in self._inputs:
            raise ConfigError(f"{type(layer).__name__} is used twice in one pass; per-sample gradients need layers used once")
        self._inputs[layer] = inputs[0]
        if not output.requires_grad:
            output.requires_grad_()

        def back(gradient: Tensor) -> None:
            self._returned[layer] = gradient

        output.register_hook(back)  # type: ignore[no-untyped-call]


Parts = list[Norms]


def _total(norms: Parts) -> Norms:
    return lambda: torch.stack([norm() for norm in norms]).sum(0)


def _chosen(norms: Parts, sums: Sums, keep: list[bool]) -> tuple[Parts, Sums]:
    return (
        [norm for norm, kept in zip(norms, keep, strict=True) if kept],
        lambda factors: [part for part, kept in zip(sums(factors), keep, strict=True) if kept],
    )


def _linear(layer: nn.Linear, inputs: Tensor, back: Tensor) -> tuple[Parts, Sums]:
    if inputs.dim() > 2:  # one row per position
        inputs, back = inputs.flatten(1, -2), back.flatten(1, -2)
        if 2 * inputs.shape[1] ** 2 > layer.weight.numel():
            return _written(layer, torch.bmm(back.transpose(1, 2), inputs), back.sum(1) if layer.bias is not None else None)

        def norm() -> Tensor:
            # |sum_t g_t a_t'|^2 = sum_ts (g_t . g_s)(a_t . a_s)
            return (torch.bmm(back, back.transpose(1, 2)) * torch.bmm(inputs, inputs.transpose(1, 2))).sum((1, 2))

        def sums(factors: Tensor) -> list[Tensor]:
            rows = inputs.flatten(0, 1)
            weighted = [(back * factor[:, None, None]).flatten(0, 1) for factor in factors]
            found = [torch.stack([(one.t() @ rows).flatten() for one in weighted])]
            return [*found, torch.stack([one.sum(0) for one in weighted])] if layer.bias is not None else found

        return [norm, *([lambda: back.sum(1).square().sum(1)] if layer.bias is not None else [])], sums

    def sums_of_rows(factors: Tensor) -> list[Tensor]:
        # All clips in one product.
        weighted = (back[None] * factors[:, :, None]).transpose(1, 2).reshape(-1, len(back))
        found = [(weighted @ inputs).reshape(len(factors), -1)]
        return [*found, factors @ back] if layer.bias is not None else found

    squares = back.square().sum(1)
    norms: Parts = [lambda: inputs.square().sum(1) * squares]
    return [*norms, *([lambda: squares] if layer.bias is not None else [])], sums_of_rows


def _convolution(layer: nn.Conv2d, inputs: Tensor, back: Tensor) -> tuple[Parts, Sums]:
    padding: Any = layer.padding
    if isinstance(padding, str):
        size = [dilation * (kernel - 1) for dilation, kernel in zip(layer.dilation, layer.kernel_size, strict=True)]
        if padding == "same":
            left = [one // 2 for one in size]
            inputs = functional.pad(inputs, (left[1], size[1] - left[1], left[0], size[0] - left[0]))
        padding = 0
    patches = functional.unfold(inputs, layer.kernel_size, layer.dilation, padding, layer.stride)
    records, groups = len(inputs), layer.groups
    gradient = back.reshape(records * groups, back.shape[1] // groups, -1)
    patches = patches.reshape(records * groups, -1, gradient.shape[2])
    samples = torch.bmm(gradient, patches.transpose(1, 2)).reshape(records, -1)
    return _written(layer, samples, back.sum((2, 3)) if layer.bias is not None else None)


def _embedding(layer: nn.Embedding, inputs: Tensor, back: Tensor) -> tuple[Parts, Sums]:
    rows, gradient = inputs.reshape(len(inputs), -1), back.reshape(len(inputs), -1, back.shape[-1])
    if layer.padding_idx is not None:
        gradient = gradient * (rows != layer.padding_idx)[:, :, None]

    def norm() -> Tensor:
        same = (rows[:, :, None] == rows[:, None, :]).to(gradient.dtype)
        return (torch.bmm(gradient, gradient.transpose(1, 2)) * same).sum((1, 2))

    def sums(factors: Tensor) -> list[Tensor]:
        found = torch.zeros(len(factors), *layer.weight.shape, dtype=gradient.dtype, device=gradient.device)
        for row, factor in zip(found, factors, strict=True):
            row.index_add_(0, rows.flatten(), (gradient * factor[:, None, None]).flatten(0, 1))
        return [found.flatten(1)]

    return [norm], sums


def _group_norm(layer: nn.GroupNorm, inputs: Tensor, back: Tensor) -> tuple[Parts, Sums]:
    scaled = functional.group_norm(inputs, layer.num_groups, eps=layer.eps)
    return _written(layer, (scaled * back).flatten(2).sum(2), back.flatten(2).sum(2))


def _layer_norm(layer: nn.LayerNorm, inputs: Tensor, back: Tensor) -> tuple[Parts, Sums]:
    scaled = functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
    size = layer.weight.numel()
    both = [one.reshape(len(inputs), -1, size).sum(1) for one in (scaled * back, back)]
    return _written(layer, both[0], both[1] if layer.bias is not None else None)


def _written(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Parts, Sums]:
    """Per-sample gradients written out: small where positions are many and weights are few."""
    parts = [one.reshape(len(one), -1) for one in (weight, bias) if one is not None]
    norms: Parts = [lambda one=one: one.square().sum(1) for one in parts]  # type: ignore[misc]
    return norms, lambda factors: [factors @ one for one in parts]


_KINDS = cast(
    dict[type[nn.Module], Callable[[Any, Tensor, Tensor], tuple[Parts, Sums]]],
    {
        nn.Linear: _linear, nn.Conv2d: _convolution, nn.Embedding: _embedding, nn.GroupNorm: _group_norm,
        nn.LayerNorm: _layer_norm,
    },
)  # fmt: skip
