"""Training one device's generated model in two steps: its head, then the hypernetwork and its embedding.

Source: Guo et al. 2025, arXiv:2412.07187, and its code (folder cnn).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgehold.core.hyper_layout import Layout
from edgehold.core.task import LocalTraining
from edgehold.core.torch_hyper import Hypernetwork, Leaves, Network
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import FloatArray

CLIP = 50.0
"""Largest Euclidean norm of a batch's gradient of phi, and of that of v. Source: the authors' code."""


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
    """One device's model: h(v; phi) before the device's own head. phi, v, head: flat float32, copied.

    seed: of the run; the backbone is what the task's own constructor makes under it (pretrained ones load their weights there).
    `ConfigError` as in `Network`.
    """

    def __init__(
        self, task: TorchTask, layout: Layout, phi: FloatArray, v: FloatArray, head: FloatArray, seed: int = 0
    ) -> None:  # fmt: skip
        model = torch.from_numpy(task.initial(seed)).to(task.device) if layout.frozen else torch.empty(0)
        frozen = [model[place].view(one.shape) for one, place in zip(layout.frozen, layout.places, strict=False)]
        self._task, self._network, self._frozen = task, Network(task.module, layout, frozen), frozen
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
        outlets, head = self._hyper.layout.outlets, self._head.parts
        parts = {outlet.place: part for outlet, part in zip(outlets, theta, strict=True)}
        places = [place.start for place in self._hyper.layout.places]
        parts |= dict(zip(places, (part.detach() for part in (*self._frozen, *head)), strict=True))
        return torch.cat([parts[place].reshape(-1) for place in sorted(parts)]).cpu().numpy()

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
