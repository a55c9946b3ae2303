"""Training which weights of a network to use while the weights themselves stay as they are: scores, top-k, straight-through."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, pi

import numpy as np
import torch
from torch import Tensor, nn

from edgehold.core.errors import ConfigError
from edgehold.core.task import LocalTraining
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import FloatArray

_FEW, _NEAR = 4096, 0.05
"""Among so few sizes the cut is simply selected; how far from the last one, as a share of it, it is looked for first."""
_MASKED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True, slots=True)
class ScoreTraining:
    """Plain SGD on scores; learning_rate falls along half a cosine over the epochs, in steps of one epoch."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0


def train_scores(
    task: TorchTask,
    weights: FloatArray,
    scores: FloatArray,
    layers: Sequence[tuple[slice, int]],
    how: ScoreTraining,
    rng: np.random.Generator,
) -> FloatArray:
    """Scores after local training, (d,) float32. task: a `TorchTask`, whose own weights play no part.

    weights: (d,), fixed; scores: (d,) at the start; layers: where each lies and how many of its edges are left out: those
    with the smallest |score|, equals in the order of their ids. Backward dL/ds = (dL/dw_eff) * w * sign(s).
    `ConfigError` names a parameter that is no weight of a linear or convolution layer.
    Source: Ramanujan et al. 2020, arXiv:1911.13299; as in FRL, arXiv:2110.04350. Departure: no rescaling by the share kept.
    """
    check(task.module)
    fixed = torch.from_numpy(weights.copy()).to(task.device)
    score = torch.from_numpy(scores.copy()).to(task.device)
    velocity = torch.zeros_like(score)
    batches = ceil(task.samples / how.batch_size)
    taken = 0
    cuts = [(place, Cut(dropped)) for place, dropped in layers]

    def step(flat: Tensor, gradient: Tensor) -> None:
        nonlocal taken
        rate = how.learning_rate * 0.5 * (1.0 + cos(pi * (taken // batches) / how.epochs))
        taken += 1
        slope = torch.where(score < 0, -fixed, fixed).mul_(gradient)
        if how.weight_decay:
            slope.add_(score, alpha=how.weight_decay)
        score.add_(velocity.mul_(how.momentum).add_(slope), alpha=-rate)
        mask(flat)

    def mask(flat: Tensor) -> None:
        for place, cut in cuts:
            torch.mul(fixed[place], cut.kept(score[place].abs()), out=flat[place])

    task.train_by(mask, step, LocalTraining(how.epochs, how.batch_size), rng)
    return score.cpu().numpy()


class Cut:
    """Which of (n,) sizes are not among the `dropped` smallest; of equal ones the first go first.

    Asked again and again while sizes change a little, it looks for the cut near where it was: the same answer several times
    faster than selecting it among all of them.
    """

    def __init__(self, dropped: int) -> None:
        self._dropped = dropped
        self._last: float | None = None

    def kept(self, sizes: Tensor) -> Tensor:
        """(n,) bool."""
        if self._dropped == 0:
            return torch.ones_like(sizes, dtype=torch.bool)
        cut = self._value(sizes)
        self._last = float(cut)
        mask = sizes > cut
        missing = len(sizes) - self._dropped - int(mask.sum())
        if missing:  # equals lie on both sides of the cut
            mask[torch.nonzero(sizes == cut).flatten()[-missing:]] = True
        return mask

    def _value(self, sizes: Tensor) -> Tensor:
        """The largest size that is dropped."""
        if self._last is not None and len(sizes) > _FEW:
            low, high = self._last * (1 - _NEAR), self._last * (1 + _NEAR)
            above = sizes >= low
            rank = self._dropped - (len(sizes) - int(above.sum()))
            inside = sizes[above.logical_and_(sizes <= high)]
            if 0 < rank <= len(inside):
                return torch.kthvalue(inside, rank).values
        return torch.kthvalue(sizes, self._dropped).values


def bare(module: nn.Module) -> list[str]:
    """Take away, in place, whatever `check` refuses and a mask can do without: biases, and scale and shift of norms.

    Names of what was removed, for people to read: another model is trained then than the one that came in, so nothing calls
    this unasked; call it in the function that makes your model. `ConfigError` names a layer that has other parameters; nothing
    is removed then.
    """
    removed: list[tuple[nn.Module, str, str]] = []
    for path, layer in module.named_modules():
        for name, _ in layer.named_parameters(recurse=False):
            free = name == "bias" if isinstance(layer, _MASKED) else isinstance(layer, _NORMS) and name in ("weight", "bias")
            if free:
                removed.append((layer, name, f"{path}.{name}" if path else name))
            elif type(layer) not in _MASKED:
                raise ConfigError(
                    f"layer {path or 'the model itself'} is a {type(layer).__name__} with the parameter {name}: only Linear, "
                    "Conv1d, Conv2d and Conv3d can be ranked, and only their biases and those of norms be left out"
                )
    for layer, name, _ in removed:
        layer.register_parameter(name, None)
        if isinstance(layer, _NORMS) and hasattr(layer, "affine"):
            layer.affine = False
    return [name for _, _, name in removed]


def check(module: nn.Module) -> None:
    """`ConfigError` for the first parameter that is no weight of a linear or convolution layer."""
    for path, layer in module.named_modules():
        for name, _ in layer.named_parameters(recurse=False):
            if type(layer) not in _MASKED or name != "weight":
                raise ConfigError(
                    f"parameter {path + '.' if path else ''}{name} of a {type(layer).__name__} cannot be masked: only weights "
                    "of Linear, Conv1d, Conv2d and Conv3d layers can; `torch_masks.bare` leaves out biases and affine norms"
                )
