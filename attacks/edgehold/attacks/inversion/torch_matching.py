"""Images whose gradient is the observed one, by descent: DLG, iDLG, and inverting gradients.

DLG: squared distance, L-BFGS, no box; only for twice-differentiable activations. Source: Zhu et al. 2019, arXiv:1906.08935;
labels first: Zhao et al. 2020, arXiv:2001.02610. Inverting gradients: one minus the cosine over all layers together, plus total
variation, Adam on the sign of the pixel gradient, inside the box. Source: Geiping et al. 2020, arXiv:2003.14053. With several
local steps, they are played in the graph: Dimitrov et al. 2022, arXiv:2206.12395, for full batches. Restarts are chosen by
the attacker's own objective.
"""

import time
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgehold.attacks.inversion import labels as labelling
from edgehold.attacks.inversion.observed import Aim, Observed, Reconstruction
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array

OUTER, INNER, HISTORY = 300, 20, 100
ENOUGH = 1e-16
"""Squared distance, over that of nothing at all, at which L-BFGS has nothing left to do."""
PATIENCE = 15
"""Outer iterations without one percent of progress, after which a restart is over: float32 weights set a floor."""
ITERATIONS, STEP = 4800, 0.1
TOTAL_VARIATION = 1e-2


def dlg(observed: Observed, aim: Aim) -> Reconstruction:
    """L-BFGS on pixels and soft labels, from N(0, 1)."""
    return _by_distance(observed, aim, labels_first=False)


def idlg(observed: Observed, aim: Aim) -> Reconstruction:
    """L-BFGS on pixels alone: labels are read off the last layer before."""
    return _by_distance(observed, aim, labels_first=True)


def cosine(observed: Observed, aim: Aim) -> Reconstruction:
    """Signed Adam on pixels; labels are read off the last layer before."""
    began, run = time.process_time(), _Run(observed, aim, torch.float32)
    truth = aim.labels if aim.labels is not None else run.labels()
    targets, steps = torch.from_numpy(np.asarray(truth)), aim.iterations or ITERATIONS
    weight = TOTAL_VARIATION if aim.total_variation is None else aim.total_variation
    size = run.size()
    low, high = aim.box
    found, reached = [], []
    for restart in range(aim.restarts):
        x = run.start(restart).requires_grad_(True)
        mean, square = torch.zeros_like(x), torch.zeros_like(x)
        rate = STEP * (high - low)
        for step in range(steps):
            if step in (3 * steps // 8, 5 * steps // 8, 7 * steps // 8):
                rate /= 10
            seen = run.moved(x, targets)
            objective = 1 - _dot(seen, run.wanted) / (_dot(seen, seen).sqrt() * size)
            if weight and len(aim.shape) == 3:
                objective = objective + weight * _variation(x)
            (slope,) = torch.autograd.grad(objective, x)
            with torch.no_grad():
                mean.mul_(0.9).add_(slope.sign_(), alpha=0.1)
                square.mul_(0.999).addcmul_(slope, slope, value=0.001)
                scale = (1 - 0.999 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1))
                x.addcdiv_(mean, square.sqrt().add_(1e-8), value=-rate * scale).clamp_(low, high)
            if step % 100 == 0:
                aim.tell((restart + step / steps) / aim.restarts, f"objective {objective.item():.3g}")
        found.append(x.detach())
        reached.append(objective.item())
    return _best(found, [np.asarray(truth)] * len(found), reached, began, observed)


def _by_distance(observed: Observed, aim: Aim, labels_first: bool) -> Reconstruction:
    began, run = time.process_time(), _Run(observed, aim, torch.float64)
    run.must_be_smooth()
    known = aim.labels if aim.labels is not None else run.labels() if labels_first else None
    outer, size = aim.iterations or OUTER, run.size() ** 2
    found, told, reached = [], [], []
    for restart in range(aim.restarts):
        x = run.start(restart).requires_grad_(True)
        guess = torch.randn(aim.records, aim.classes, generator=run.rng, dtype=torch.float64).requires_grad_(True)
        free = [x] if known is not None else [x, guess]
        targets = torch.from_numpy(np.asarray(known)) if known is not None else None
        optimiser = torch.optim.LBFGS(free, lr=1.0, max_iter=INNER, history_size=HISTORY)

        def closure(
            x: Tensor = x, guess: Tensor = guess, free: Sequence[Tensor] = free, targets: Tensor | None = targets
        ) -> Tensor:
            seen = run.moved(x, guess.softmax(1) if targets is None else targets)
            distance = sum(((a - b) ** 2).sum() for a, b in zip(seen, run.wanted, strict=True))
            assert isinstance(distance, Tensor)
            for one, slope in zip(free, torch.autograd.grad(distance, free), strict=True):
                one.grad = slope
            return distance.detach()

        best, kept, last, stuck = float("inf"), x.detach().clone(), guess.detach().clone(), 0
        before, choice = kept, last
        for number in range(outer):
            value = float(optimiser.step(closure))  # type: ignore[no-untyped-call]
            if not np.isfinite(value):
                break  # this restart has flown off; what it had before counts
            stuck = 0 if value < 0.99 * best else stuck + 1
            if value < best:
                best, kept, last = value, before, choice
            before, choice = x.detach().clone(), guess.detach().clone()
            if number % 10 == 0:
                aim.tell((restart + number / outer) / aim.restarts, f"objective {value / size:.3g}")
            if value < ENOUGH * size or stuck > PATIENCE:
                break
        final = float(closure())
        if np.isfinite(final) and final <= best:
            best, kept, last = final, x.detach().clone(), guess.detach().clone()
        found.append(kept)
        told.append(np.asarray(known) if known is not None else last.argmax(1).numpy())
        reached.append(best / size)
    return _best(found, told, reached, began, observed)


class _Run:
    """What all descents share: the attacker's copy of the model at the observed weights, and the observed gradient."""

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
        moved = observed._cut(observed.change) if many else observed.tensors()
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
        return max(float(_dot(self.wanted, self.wanted).sqrt()), 1e-30)

    def labels(self) -> Array:
        """Labels as the last layer tells them."""
        observed, aim = self._observed, self._aim
        if observed.steps > 1:
            slopes = [-part / (observed.learning_rate * observed.steps) for part in observed._cut(observed.change)]
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


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()


def _variation(x: Tensor) -> Tensor:
    return (x[..., 1:, :] - x[..., :-1, :]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean()


def _best(found: list[Tensor], labels: list[Array], reached: list[float], began: float, observed: Observed) -> Reconstruction:
    at = int(np.argmin(np.nan_to_num(reached, nan=float("inf"))))
    note = f"{observed.guard}: a match of noise says nothing" if observed.guard else ""
    return Reconstruction(found[at].double().numpy(), labels[at], tuple(reached), time.process_time() - began, note)
