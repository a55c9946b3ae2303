"""Images whose gradient is the observed one, by descent: DLG, iDLG, and inverting gradients.

DLG: squared distance, L-BFGS, no box; only for twice-differentiable activations. Source: Zhu et al. 2019, arXiv:1906.08935;
labels first: Zhao et al. 2020, arXiv:2001.02610. Inverting gradients: one minus the cosine over all layers together, plus total
variation, Adam on the sign of the pixel gradient, inside the box. Source: Geiping et al. 2020, arXiv:2003.14053. With several
local steps, they are played in the graph: Dimitrov et al. 2022, arXiv:2206.12395, for full batches. Restarts are chosen by
the attacker's own objective.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edgehold.attacks.inversion.observed import Aim, Observed, Reconstruction
from edgehold.attacks.inversion.torch_copy import Copy, dot
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
    began, run = time.process_time(), Copy(observed, aim, torch.float32)
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
            objective = 1 - dot(seen, run.wanted) / (dot(seen, seen).sqrt() * size)
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
    began, run = time.process_time(), Copy(observed, aim, torch.float64)
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


def _variation(x: Tensor) -> Tensor:
    return (x[..., 1:, :] - x[..., :-1, :]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean()


def _best(found: list[Tensor], labels: list[Array], reached: list[float], began: float, observed: Observed) -> Reconstruction:
    at = int(np.argmin(np.nan_to_num(reached, nan=float("inf"))))
    note = f"{observed.guard}: a match of noise says nothing" if observed.guard else ""
    return Reconstruction(found[at].double().numpy(), labels[at], tuple(reached), time.process_time() - began, note)
