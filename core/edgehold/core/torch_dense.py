"""Gradients of perceptrons under cross-entropy, written out: what autograd computes, bit for bit, without its bookkeeping.

For a small model most of a step is that bookkeeping (docs/benchmarks.md). `TorchTask` asks `Dense.of` once per model;
whatever it does not know goes through autograd.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, slots=True)
class _Layer:
    """A linear layer; its parameters and their slopes are views that stay where they are. bent: whether ReLU follows."""

    weight: Tensor
    weight_slope: Tensor
    bias: Tensor | None
    bias_slope: Tensor | None
    bent: bool = False


class Dense:
    """Linear layers with ReLU behind any of them but the last, and mean cross-entropy against class indices.

    module: whose they are; layers: first to last; flattens: records of more than one axis are laid out flat first.
    """

    def __init__(self, module: nn.Module, layers: Sequence[_Layer], flattens: bool) -> None:
        self._module, self._layers, self._flattens = module, tuple(layers), flattens

    @classmethod
    def of(cls, module: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> "Dense | None":
        """For exactly such a model, all of whose parameters are trained and have a `grad`; None for every other."""
        if loss is not nn.functional.cross_entropy or type(module) is not nn.Sequential:
            return None
        parts = list(module)
        flattens = bool(parts) and type(parts[0]) is nn.Flatten and (parts[0].start_dim, parts[0].end_dim) == (1, -1)
        layers: list[_Layer] = []
        before: nn.Module | None = None
        for part in parts[flattens:]:
            if type(part) is nn.ReLU and type(before) is nn.Linear:
                layers[-1] = replace(layers[-1], bent=True)
            elif type(part) is nn.Linear and part.weight.grad is not None and (part.bias is None or part.bias.grad is not None):
                bias, slope = (None, None) if part.bias is None else (part.bias.detach(), part.bias.grad)
                layers.append(_Layer(part.weight.detach(), part.weight.grad, bias, slope))
            else:
                return None
            before = part
        # A layer that occurs twice has more than one slope to add up.
        if not layers or len({id(part) for part in parts}) < len(parts) or layers[-1].bent:
            return None
        return cls(module, layers, flattens)

    def takes(self, inputs: Tensor, targets: Tensor) -> bool:
        """Whether cross-entropy reads these records as it is written here: float32, one class index of 0 or more each; and
        whether nobody hangs on to what passes through the model.
        """
        shaped = self._flattens or inputs.dim() == 2
        plain = inputs.dtype == torch.float32 and targets.dtype == torch.int64 and targets.dim() == 1
        watched = any(getattr(part, hook) for part in self._module.modules() for hook in _HOOKS)
        return shaped and plain and not watched and bool((targets >= 0).all())

    def differentiate(self, inputs: Tensor, targets: Tensor) -> None:
        """Overwrite every parameter's `grad` with that of the mean loss over a batch; autograd is left nothing to follow."""
        shown = inputs.flatten(1)
        seen = []
        for layer in self._layers:
            seen.append(shown)
            turned = layer.weight.t()
            shown = torch.mm(shown, turned) if layer.bias is None else torch.addmm(layer.bias, shown, turned)
            if layer.bent:
                shown.relu_()
        scores = torch.log_softmax(shown, 1)
        slope = torch.zeros_like(scores).scatter_(1, targets.unsqueeze(1), -1.0 / targets.shape[0])
        slope = torch.ops.aten._log_softmax_backward_data(slope, scores, 1, scores.dtype)
        for place in reversed(range(len(self._layers))):
            layer, before = self._layers[place], seen[place]
            torch.mm(slope.t(), before, out=layer.weight_slope)
            if layer.bias_slope is not None:
                torch.sum(slope, 0, out=layer.bias_slope)
            if place:
                slope = torch.mm(slope, layer.weight)
                if self._layers[place - 1].bent:
                    slope = torch.ops.aten.threshold_backward(slope, before, 0)
