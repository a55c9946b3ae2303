"""Training a hypernetwork through the user's own model: generated tensors take the place of its parameters, strictly.

The numbers lie in one flat vector as `edgehold.core.hyper` says; the leaves of the graph are views of it and their gradients
views of another, so that clipping and a step of SGD are a few operations on whole vectors.
Source: Guo et al. 2025, arXiv:2412.07187, algorithm and code (folder cnn). Departure: one backward pass through the functional
call, where their code loads the generated weights and multiplies Jacobians by hand; the result is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from edgehold.core.errors import ConfigError
from edgehold.core.hyper import Layout
from edgehold.core.task import LocalTraining
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array, FloatArray

CLIP = 50.0
"""Largest Euclidean norm of a batch's gradient of phi, and of that of v. Source: the authors' code."""

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
    """The user's model with all its parameters given from outside.

    `ConfigError` names a parameter of `module` that is frozen, or that `layout` lacks or has in another shape.
    """

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        tensors = [*(outlet.tensor for outlet in layout.outlets), *layout.head]
        shapes = {tensor.name: tensor.shape for tensor in tensors}
        own = dict(module.named_parameters())
        for name, parameter in own.items():
            if shapes.get(name) != tuple(parameter.shape):
                raise ConfigError(
                    f"parameter {name} of shape {tuple(parameter.shape)} would not be generated: the hypernetwork makes "
                    f"{shapes.get(name, 'none of that name')}; every tensor must be generated or belong to the head"
                )
            if not parameter.requires_grad:
                raise ConfigError(f"parameter {name} is frozen; HyperFL trains every tensor of the model: set requires_grad")
        if more := [name for name in shapes if name not in own]:
            raise ConfigError(f"tensor {more[0]} would be generated, but the model has no parameter of that name")
        self._module, self._names = module, list(shapes)
        self._buffers = dict(module.named_buffers())

    def __call__(self, theta: Sequence[Tensor], head: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """Outputs of the model with these tensors. Strict: a name too few or too many is an error, not a silent omission."""
        given = self._buffers | dict(zip(self._names, [*theta, *head], strict=True))
        outputs: Tensor = torch.func.functional_call(self._module, given, (inputs,), strict=True)
        return outputs


@dataclass(frozen=True, slots=True)
class Sgd:
    """Plain SGD as in torch.optim: gradient + decay x weights, momentum, rate; velocities start anew with each use."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float

    def steps(self, leaves: Sequence[Leaves]) -> "_Steps":
        """For these vectors."""
        return _Steps(self, leaves)


class _Steps:
    def __init__(self, how: Sgd, leaves: Sequence[Leaves]) -> None:
        self._how = how
        self._moved = [(one, torch.zeros_like(one.flat)) for one in leaves]

    def take(self, loss: Tensor, clip: float | None = None) -> None:
        """Backward, then one step; clip: largest norm of each vector's gradient."""
        how = self._how
        for one, _ in self._moved:
            one.slope.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        for one, velocity in self._moved:
            if clip is not None and (norm := float(one.slope.norm())) > clip:
                one.slope.mul_(clip / norm)
            one.slope.add_(one.flat, alpha=how.weight_decay)
            velocity.mul_(how.momentum).add_(one.slope)
            one.flat.add_(velocity, alpha=-how.learning_rate)


class Personal:
    """One device's model: h(v; phi) behind the device's own head. phi, v, head: flat float32, copied.

    `ConfigError` as in `Network`.
    """

    def __init__(self, task: TorchTask, layout: Layout, phi: FloatArray, v: FloatArray, head: FloatArray) -> None:
        self._task, self._network = task, Network(task.module, layout)
        self._hyper = Hypernetwork(layout, np.array(phi), task.device)
        self._v = Leaves(np.array(v), [(0, (layout.embedding,))], task.device)
        starts = np.cumsum([0, *(tensor.size for tensor in layout.head)])
        places = [(int(start), tensor.shape) for start, tensor in zip(starts, layout.head, strict=False)]
        self._head = Leaves(np.array(head), places, task.device)

    @property
    def phi(self) -> FloatArray:
        """(layout.size,) as trained so far."""
        return self._hyper.phi.flat.cpu().numpy()

    @property
    def v(self) -> FloatArray:
        """(embedding,)."""
        return self._v.flat.cpu().numpy()

    @property
    def head(self) -> FloatArray:
        """(layout.head_size,)."""
        return self._head.flat.cpu().numpy()

    def weights(self) -> FloatArray:
        """The dense model, (schema.size,), generated now: never what an earlier step left behind."""
        with torch.no_grad():
            theta = self._hyper(self._v.parts[0])
        return torch.cat([part.reshape(-1) for part in (*theta, self._head.flat)]).cpu().numpy()

    def train_head(self, how: Sgd, rng: np.random.Generator) -> None:
        """Step 1: the head alone, behind the extractor as generated now."""
        with torch.no_grad():
            theta = self._hyper(self._v.parts[0])
        steps = how.steps([self._head])
        for inputs, targets in self._task.batches(_epochs(how), rng):
            steps.take(self._task.loss(self._network(theta, self._head.parts, inputs), targets))

    def train_hypernetwork(self, how: Sgd, rng: np.random.Generator) -> None:
        """Step 2: phi and v, each gradient clipped to norm `CLIP`; the head stands still."""
        head = [part.detach() for part in self._head.parts]
        steps = how.steps([self._hyper.phi, self._v])
        for inputs, targets in self._task.batches(_epochs(how), rng):
            theta = self._hyper(self._v.parts[0])
            steps.take(self._task.loss(self._network(theta, head, inputs), targets), CLIP)


def _epochs(how: Sgd) -> LocalTraining:
    return LocalTraining(how.epochs, how.batch_size)
