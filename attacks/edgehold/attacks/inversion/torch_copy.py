"""The attacker's copy of the model at the observed weights: gradients of guesses, in the graph, beside the observed one."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgehold.attacks.inversion import labels as labelling
from edgehold.attacks.inversion.observed import Aim, Observed
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array


class Copy:
    """wanted: the gradient, or the change of weights, that reconstructions are to give."""

    def __init__(self, observed: Observed, aim: Aim, dtype: torch.dtype) -> None:
        if not observed.whole or aim.model is None:
            raise ConfigError(
                "this attack computes gradients of the whole model; it needs the server's own copy of the task, and a method "
                "that sends all of it"
            )
        if aim.model.schema.digest != observed.schema.digest:
            raise ConfigError("the task's model is not the one that was trained: their tensors differ; name the run's own task")
        if aim.records < 1 or aim.restarts < 1:
            raise ConfigError(f"records = {aim.records}, restarts = {aim.restarts}; at least 1 of both")
        torch.set_num_threads(1)
        self._observed, self._aim, self.dtype = observed, aim, dtype
        self._module: nn.Module = aim.model.module
        self._loss: Callable[[Tensor, Tensor], Tensor] = aim.model.loss
        self._names = [name for name, _ in self._module.named_parameters()]
        self._module.train()
        weights = [torch.from_numpy(part.copy()).to(dtype) for part in observed.weights()]
        self.weights = [part.requires_grad_(True) for part in weights]
        many = observed.steps > 1
        moved = observed.cut(observed.change) if many else observed.tensors()
        self.wanted = [torch.from_numpy(part.copy()).to(dtype) for part in moved]
        if many and (observed.batch < aim.records or observed.momentum):
            raise ConfigError(
                f"{observed.steps} local steps over batches of {observed.batch}, momentum {observed.momentum}: which record "
                "was in which step is not known; only full batches without momentum are played"
            )
        self.rng = torch.Generator().manual_seed(aim.seed)

    def moved(self, x: Tensor, targets: Tensor) -> list[Tensor]:
        """The gradient of these records, or the change of weights after as many steps over them, in the graph."""
        observed, weights = self._observed, self.weights
        if observed.steps == 1:
            return list(torch.autograd.grad(self._value(weights, x, targets), weights, create_graph=True))
        now = list(weights)
        for _ in range(observed.steps):
            slopes = torch.autograd.grad(self._value(now, x, targets), now, create_graph=True)
            now = [
                one - observed.learning_rate * (slope + observed.weight_decay * one)
                for one, slope in zip(now, slopes, strict=True)
            ]
        return [after - before for after, before in zip(now, weights, strict=True)]

    def _value(self, weights: Sequence[Tensor], x: Tensor, targets: Tensor) -> Tensor:
        outputs = functional_call(self._module, dict(zip(self._names, weights, strict=True)), (x,))
        if targets.is_floating_point():
            return cast(Tensor, -(targets * outputs.log_softmax(1)).sum(1).mean())
        return self._loss(outputs, targets)

    def start(self, restart: int) -> Tensor:
        """Where a restart begins: N(0, 1), whatever the box."""
        return torch.randn(self._aim.records, *self._aim.shape, generator=self.rng, dtype=self.dtype)

    def size(self) -> float:
        """Norm of what was observed."""
        return max(float(dot(self.wanted, self.wanted).sqrt()), 1e-30)

    def labels(self) -> Array:
        """Labels as the last layer tells them."""
        observed, aim = self._observed, self._aim
        if observed.steps > 1:
            slopes = [-part / (observed.learning_rate * observed.steps) for part in observed.cut(observed.change)]
        else:
            slopes = observed.tensors()
        biased = slopes[-1].ndim == 1
        if aim.records == 1 or not biased:
            one = labelling.single(slopes[-2] if biased else slopes[-1], slopes[-1] if biased else None)
            return np.full(aim.records, one)
        if aim.public is not None:
            with torch.no_grad():
                public = torch.from_numpy(np.asarray(aim.public[:512])).to(self.dtype)
                outputs = functional_call(self._module, dict(zip(self._names, self.weights, strict=True)), (public,))
                confidence = outputs.softmax(1).mean(0).numpy()
        else:
            confidence = np.full(len(slopes[-1]), 1 / len(slopes[-1]))
        return labelling.spread(labelling.counts(slopes[-1], aim.records, confidence))

    def must_be_smooth(self) -> None:
        """`ConfigError` for a model whose second derivatives vanish or jump."""
        rough = sorted(
            {type(m).__name__ for m in self._module.modules() if isinstance(m, nn.ReLU | nn.LeakyReLU | nn.MaxPool2d)}
        )
        if rough:
            raise ConfigError(
                f"the model has {', '.join(rough)}; this attack needs activations that can be differentiated twice (sigmoid, "
                "tanh, softplus, GELU). Use cosine, or sparse for a fully connected first layer"
            )


def dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Inner product over all tensors together."""
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()
