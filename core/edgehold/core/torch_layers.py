"""Per-sample gradients of single layers from what went in and what came back, written out only where that is cheap.

A norm is that of exactly what is summed, up to roundings that no cancellation can enlarge: else the clip would bound nothing.

Sources: Goodfellow 2015, arXiv:1510.01799 (norms of linear layers); Bu et al. 2023, "Differentially private optimization on
large model at small cost" (sums from the same two tensors, no second pass).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgehold.core.errors import ConfigError

Norms = Callable[[], Tensor]
Sums = Callable[[Tensor], Sequence[Tensor]]
_MOST = 1 << 22
"""Values of per-sample gradients of one layer that are kept at once."""


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
    """While open, layers note their inputs and the gradients of their outputs, and no gradient of a weight is computed.

    May be opened again, for the next pass.
    """

    def __init__(self, module: nn.Module) -> None:
        self._layers = [
            (layer, tuple(p for p in layer.parameters(recurse=False) if p.requires_grad))
            for layer in module.modules()
            if any(p.requires_grad for p in layer.parameters(recurse=False))
        ]
        self._uses: dict[nn.Module, list[_Use]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> "Watch":
        self._uses = {layer: [] for layer, _ in self._layers}
        for layer, parameters in self._layers:
            for parameter in parameters:
                parameter.requires_grad_(False)
            self._hooks.append(layer.register_forward_hook(self._forward))
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._uses = [], {}
        for _, parameters in self._layers:
            for parameter in parameters:
                parameter.requires_grad_(True)

    def seen(self, records: int) -> list[Seen]:
        """What the layers that took part saw of so many records, in one use or several."""
        found = []
        for layer, parameters in self._layers:
            uses = [(use.inputs.detach(), use.back) for use in self._uses[layer] if use.back is not None]
            if not uses:
                continue
            for use in self._uses[layer]:
                use.must_be_sound(type(layer).__name__, records)
            norms, sums = _KINDS[type(layer)](layer, uses)
            mine = {id(p) for p in parameters}
            named = [p for p in (getattr(layer, "weight", None), getattr(layer, "bias", None)) if p is not None]
            if len(mine) != len(named):  # a frozen one is left out of both
                keep = [id(p) in mine for p in named]
                norms, sums = _chosen(norms, sums, keep)
                named = [p for p, kept in zip(named, keep, strict=True) if kept]
            found.append(Seen(tuple(named), _total(norms), sums))
        return found

    def _forward(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        use = _Use(inputs[0], inputs[0]._version)
        self._uses[layer].append(use)
        if not output.requires_grad or output._is_view():
            # What follows may work in place, which neither leaves nor views survive.
            output = cast(Tensor, _Begin.apply(output, _anchor(output)))  # type: ignore[no-untyped-call]
        output.register_hook(use.returned)  # type: ignore[no-untyped-call]
        return output


@dataclass(slots=True)
class _Use:
    """One use of a layer. version: of its inputs when it was used; back: gradient of the output."""

    inputs: Tensor
    version: int
    back: Tensor | None = None

    def returned(self, gradient: Tensor) -> None:
        self.back = gradient

    def must_be_sound(self, layer: str, records: int) -> None:
        """`ConfigError` when this use cannot be taken apart by records."""
        if len(self.inputs) != records or (self.back is not None and len(self.back) != records):
            raise ConfigError(
                f"{layer} was given {tuple(self.inputs.shape)} for {records} records; per-sample gradients need one row per "
                "record in every layer"
            )
        if self.inputs._version != self.version:
            raise ConfigError(f"what {layer} was given was changed in place afterwards; per-sample gradients need it as it was")


class _Begin(torch.autograd.Function):
    """A copy that wants a gradient, whatever came before it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, anchor: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _anchor(like: Tensor) -> Tensor:
    return torch.zeros((), device=like.device, requires_grad=True)


Uses = Sequence[tuple[Tensor, Tensor]]
"""What went in and what came back, by use of a layer."""
Parts = list[Norms]


def _total(norms: Parts) -> Norms:
    return lambda: torch.stack([norm() for norm in norms]).sum(0)


def _chosen(norms: Parts, sums: Sums, keep: list[bool]) -> tuple[Parts, Sums]:
    return (
        [norm for norm, kept in zip(norms, keep, strict=True) if kept],
        lambda factors: [part for part, kept in zip(sums(factors), keep, strict=True) if kept],
    )


def _linear(layer: nn.Linear, uses: Uses) -> tuple[Parts, Sums]:
    if len(uses) > 1 or uses[0][0].dim() > 2:
        return _positions(layer, uses)
    inputs, back = uses[0]

    def sums(factors: Tensor) -> list[Tensor]:
        # All clips in one product.
        weighted = (back[None] * factors[:, :, None]).transpose(1, 2).reshape(-1, len(back))
        found = [(weighted @ inputs).reshape(len(factors), -1)]
        return [*found, factors @ back] if layer.bias is not None else found

    returned = squares(back)
    norms: Parts = [lambda: squares(inputs) * returned]
    return [*norms, *([lambda: returned] if layer.bias is not None else [])], sums


def _positions(layer: nn.Linear, uses: Uses) -> tuple[Parts, Sums]:
    """A layer used at several places of each record.

    Norms from products of places (Goodfellow's trick in higher dimensions) are cheaper, but what cancels between places is lost
    to rounding there, and with it the clip. So gradients are written out, twice where they are too large to be kept.
    """
    rows = [torch.cat([one.reshape(len(one), -1, one.shape[-1]) for one in part], 1) for part in zip(*uses, strict=True)]
    inputs, back = rows
    bias = back.sum(1) if layer.bias is not None else None
    together = max(1, _MOST // layer.weight.numel())
    if len(back) <= together:
        return _written(torch.bmm(back.transpose(1, 2), inputs), bias)

    def pieces() -> Iterator[Tensor]:
        for gradient, given in zip(torch.split(back, together), torch.split(inputs, together), strict=True):
            yield torch.bmm(gradient.transpose(1, 2), given).flatten(1)

    def sums(factors: Tensor) -> list[Tensor]:
        found = torch.zeros(len(factors), layer.weight.numel(), dtype=back.dtype, device=back.device)
        for part, piece in zip(torch.split(factors, together, 1), pieces(), strict=True):
            found += part @ piece
        return [found] if bias is None else [found, factors @ bias]

    norms: Parts = [lambda: torch.cat([squares(piece) for piece in pieces()])]
    return [*norms, *([lambda: squares(bias)] if bias is not None else [])], sums


def _convolution(layer: nn.Conv2d, uses: Uses) -> tuple[Parts, Sums]:
    weight = _added([_of_kernels(layer, inputs, back) for inputs, back in uses])
    return _written(weight, _added([back.sum((2, 3)) for _, back in uses]) if layer.bias is not None else None)


def _of_kernels(layer: nn.Conv2d, inputs: Tensor, back: Tensor) -> Tensor:
    across = [dilation * (kernel - 1) for dilation, kernel in zip(layer.dilation, layer.kernel_size, strict=True)]
    if isinstance(layer.padding, str):
        before = [size // 2 if layer.padding == "same" else 0 for size in across]
        after = [size - one if layer.padding == "same" else 0 for size, one in zip(across, before, strict=True)]
    else:
        before = after = list(cast(tuple[int, int], layer.padding))
    if any(before) or any(after):
        inputs = functional.pad(inputs, (before[1], after[1], before[0], after[0]))
    inputs = inputs.contiguous()
    records, groups, (high, wide) = len(inputs), layer.groups, layer.kernel_size
    # A view of every patch, copied once: faster than unfold.
    n, c, h, w = inputs.stride()
    (down, right), (tall, long) = layer.dilation, layer.stride
    shape = (records, inputs.shape[1], high, wide, *back.shape[2:])
    patches = inputs.as_strided(shape, (n, c, h * down, w * right, h * tall, w * long))
    gradient = back.reshape(records * groups, back.shape[1] // groups, -1)
    patches = patches.reshape(records * groups, -1, gradient.shape[2])
    return torch.bmm(gradient, patches.transpose(1, 2)).reshape(records, -1)


def _embedding(layer: nn.Embedding, uses: Uses) -> tuple[Parts, Sums]:
    rows = torch.cat([one.reshape(len(one), -1) for one, _ in uses], 1)
    gradient = torch.cat([back.reshape(len(back), -1, back.shape[-1]) for _, back in uses], 1)
    if layer.padding_idx is not None:
        gradient = gradient * (rows != layer.padding_idx)[:, :, None]
    records, count = len(rows), layer.num_embeddings
    # A word's places in a record are added up first: what cancels there is no part of the norm.
    places = rows + count * torch.arange(records, device=rows.device)[:, None]
    there, where = torch.unique(places, return_inverse=True)
    written = torch.zeros(len(there), gradient.shape[-1], dtype=gradient.dtype, device=gradient.device)
    written.index_add_(0, where.flatten(), gradient.flatten(0, 1))
    owner, word = there.div(count, rounding_mode="floor"), there % count

    def norm() -> Tensor:
        return torch.zeros(records, dtype=torch.float64, device=written.device).index_add_(0, owner, squares(written))

    def sums(factors: Tensor) -> list[Tensor]:
        found = torch.zeros(len(factors), *layer.weight.shape, dtype=written.dtype, device=written.device)
        for row, factor in zip(found, factors, strict=True):
            row.index_add_(0, word, written * factor[owner][:, None])
        return [found.flatten(1)]

    return [norm], sums


def _group_norm(layer: nn.GroupNorm, uses: Uses) -> tuple[Parts, Sums]:
    scaled = [functional.group_norm(inputs, layer.num_groups, eps=layer.eps) * back for inputs, back in uses]
    weight, bias = ([one.flatten(2).sum(2) for one in part] for part in (scaled, [back for _, back in uses]))
    return _written(_added(weight), _added(bias) if layer.bias is not None else None)


def _layer_norm(layer: nn.LayerNorm, uses: Uses) -> tuple[Parts, Sums]:
    size = layer.weight.numel()
    scaled = [functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps) * back for inputs, back in uses]
    weight, bias = ([one.reshape(len(one), -1, size).sum(1) for one in part] for part in (scaled, [back for _, back in uses]))
    return _written(_added(weight), _added(bias) if layer.bias is not None else None)


def _written(weight: Tensor, bias: Tensor | None) -> tuple[Parts, Sums]:
    """Per-sample gradients written out: small where positions are many and weights are few."""
    parts = [one.reshape(len(one), -1) for one in (weight, bias) if one is not None]
    norms: Parts = [lambda one=one: squares(one) for one in parts]  # type: ignore[misc]
    return norms, lambda factors: [factors @ one for one in parts]


def squares(rows: Tensor) -> Tensor:
    """(n,) float64 squared norms of (n, m) float32: nothing overflows, and what is tiny is not lost."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms.square()


def _added(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0) if len(parts) > 1 else parts[0]


_KINDS = cast(
    dict[type[nn.Module], Callable[[Any, Uses], tuple[Parts, Sums]]],
    {
        nn.Linear: _linear, nn.Conv2d: _convolution, nn.Embedding: _embedding, nn.GroupNorm: _group_norm,
        nn.LayerNorm: _layer_norm,
    },
)  # fmt: skip
