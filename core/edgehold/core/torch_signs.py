"""Training the signs of a network's weights while their sizes stay as they are: latent scores, straight-through, Adam."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgehold.core import torch_masks
from edgehold.core.task import LocalTraining
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array, FloatArray

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True)
class SignTraining:
    """Adam on scores. switched: a negative score switches its weight off instead of turning it."""

    epochs: int
    batch_size: int
    learning_rate: float
    switched: bool = False


def train_signs(
    task: TorchTask, weights: FloatArray, left: Array, scores: FloatArray, how: SignTraining, rng: np.random.Generator
) -> FloatArray:
    """Scores after local training, (K,) float32, within -1..1. task: a `TorchTask`, whose own weights play no part.

    weights: (n,), fixed; left: (K,) indices of those that are trained; scores: (K,) at the start. Forward u = w sgn(s) with
    sgn(0) = +1, backward dL/ds = dL/du w. Adam starts anew. `ConfigError` names a parameter that is no weight of a linear or
    convolution layer. Source: design of our own; the paper (Vallapuram et al. 2022) says only that signs are trained.
    """
    torch_masks.check(task.module)
    places = torch.from_numpy(np.asarray(left, dtype=np.int64)).to(task.device)
    base = torch.from_numpy(weights.copy()).to(task.device)
    fixed, score = base[places], torch.from_numpy(scores.copy()).to(task.device)
    mean, square = torch.zeros_like(score), torch.zeros_like(score)
    taken = 0

    def show(flat: Tensor) -> None:
        lost = torch.zeros_like(fixed) if how.switched else -fixed
        flat[places] = torch.where(score < 0, lost, fixed)

    def begin(flat: Tensor) -> None:
        flat.copy_(base)
        show(flat)

    def step(flat: Tensor, gradient: Tensor) -> None:
        nonlocal taken
        taken += 1
        slope = gradient[places].mul_(fixed)
        mean.lerp_(slope, 1 - _BETAS[0])
        square.lerp_(slope.square_(), 1 - _BETAS[1])
        spread = (square / (1 - _BETAS[1] ** taken)).sqrt_().add_(_EPSILON)
        score.addcdiv_(mean, spread, value=-how.learning_rate / (1 - _BETAS[0] ** taken)).clamp_(-1, 1)
        show(flat)

    task.train_by(begin, step, LocalTraining(how.epochs, how.batch_size), rng)
    return score.cpu().numpy()
