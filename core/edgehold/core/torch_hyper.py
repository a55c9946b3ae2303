"""A hypernetwork in PyTorch, and the user's own model with generated tensors in place of its parameters, strictly.

The numbers lie in one flat vector as `edgehold.core.hyper_layout` says; the leaves of the graph are views of it and their
gradients views of another, so that clipping and a step of SGD are a few operations on whole vectors.
Source: Guo et al. 2025, arXiv:2412.07187, and its code (folder cnn). Departure: one backward pass through the functional
call, where their code loads the generated weights and multiplies Jacobians by hand; the result is the same.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from edgehold.core.errors import ConfigError
from edgehold.core.hyper_layout import Layout
from edgehold.core.vectors import Array

Places = Sequence[tuple[int, tuple[int, ...]]]


class Leaves:
    """A flat vector as leaves of the graph. values: (n,), copied; places: (start, shape) of each part."""

    def __init__(self, values: Array | Tensor, places: Places, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.flat = torch.as_tensor(values).to(device, dtype, copy=True)
        self.slope = torch.zeros_like(self.flat)
        self.parts = []
        for start, shape in places:
            part = self.flat[start : start + prod(shape)].view(shape).detach().requires_grad_()
            part.grad = self.slope[start : start + prod(shape)].view(shape)
            self.parts.append(part)


class Hypernetwork:
    """h(v; phi). phi: (layout.size,)."""

    def __init__(
        self, layout: Layout, phi: Array | Tensor, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:  # fmt: skip
        places = [*layout.first, *(part for outlet in layout.outlets for part in outlet.parts)]
        self.layout, self.phi = layout, Leaves(phi, places, device, dtype)

    def code(self, v: Tensor) -> Tensor:
        """z = relu(W0 v + b0), (hidden,)."""
        weight, bias = self.phi.parts[:2]
        return torch.addmv(bias, weight, v).relu()

    def __call__(self, v: Tensor) -> list[Tensor]:
        """theta: one tensor per tensor of the extractor, in its shape, part of the graph."""
        z, parts, found = self.code(v), iter(self.phi.parts[2:]), []
        for outlet in self.layout.outlets:
            weight = next(parts)
            inner = torch.mv(next(parts), z) if outlet.rank else z
            found.append(torch.addmv(next(parts), weight, inner).view(outlet.tensor.shape))
        return found


class Network:
    """The user's model with all its parameters given from outside. frozen: values of the backbone's, in the layout's order.

    `ConfigError` names a parameter of `module` that cannot be trained though it should, or that `layout` lacks or has in
    another shape.
    """

    def __init__(self, module: nn.Module, layout: Layout, frozen: Sequence[Tensor] = ()) -> None:
        tensors = [*layout.frozen, *(outlet.tensor for outlet in layout.outlets), *layout.head]
        still = {tensor.name for tensor in layout.frozen}
        shapes = {tensor.name: tensor.shape for tensor in tensors}
        own = dict(module.named_parameters())
        for name, parameter in own.items():
            if shapes.get(name) != tuple(parameter.shape):
                raise ConfigError(
                    f"parameter {name} of shape {tuple(parameter.shape)} would not be generated: the hypernetwork makes "
                    f"{shapes.get(name, 'none of that name')}; every tensor must be generated or belong to the head"
                )
            if not parameter.requires_grad and name not in still:
                raise ConfigError(
                    f"parameter {name} is frozen in the model, but HyperFL would generate or train it: set requires_grad, or "
                    "name the frozen part as backbone"
                )
        if more := [name for name in shapes if name not in own]:
            raise ConfigError(f"tensor {more[0]} would be generated, but the model has no parameter of that name")
        self._module, self._names = module, list(shapes)
        self._buffers, self._frozen = dict(module.named_buffers()), frozen

    def __call__(self, theta: Sequence[Tensor], head: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """Outputs of the model with these tensors. Strict: a name too few or too many is an error, not a silent omission."""
        given = self._buffers | dict(zip(self._names, [*self._frozen, *theta, *head], strict=True))
        outputs: Tensor = torch.func.functional_call(self._module, given, (inputs,), strict=True)
        return outputs
