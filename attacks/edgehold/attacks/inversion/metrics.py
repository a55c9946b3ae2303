"""How near reconstructions come: PSNR, SSIM, and which reconstruction belongs to which original."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.optimize import linear_sum_assignment

from edgehold.core.errors import WrongShape
from edgehold.core.vectors import Array

CEILING = 300.0
"""dB that stand for no error at all."""
WINDOW = 7


def psnr(found: Array, truth: Array, width: float = 1.0) -> float:
    """Peak signal to noise ratio in dB. width: of the range of values."""
    error = float(np.mean((np.asarray(found, np.float64) - np.asarray(truth, np.float64)) ** 2))
    if not np.isfinite(error):
        return -CEILING
    return min(CEILING, 10 * float(np.log10(width * width / error))) if error > 0 else CEILING


def ssim(found: Array, truth: Array, width: float = 1.0) -> float:
    """Structural similarity of two images (channels, height, width) or (height, width), mean over channels; nan where a side is
    below 7.

    Windows of 7 x 7 with equal weights, sample covariance, K1 0.01, K2 0.03, borders of 3 left out: what scikit-image does by
    default. Source: Wang et al. 2004.
    """
    one, two = (np.asarray(image, np.float64) for image in (found, truth))
    if one.shape != two.shape:
        raise WrongShape(f"images of shapes {one.shape} and {two.shape}; SSIM compares two of one shape")
    if one.ndim == 3:
        return float(np.mean([ssim(a, b, width) for a, b in zip(one, two, strict=True)]))
    if one.ndim != 2 or min(one.shape) < WINDOW:
        return float("nan")
    count = WINDOW * WINDOW
    sample = count / (count - 1)
    mean_one, mean_two = uniform_filter(one, WINDOW), uniform_filter(two, WINDOW)
    var_one = sample * (uniform_filter(one * one, WINDOW) - mean_one**2)
    var_two = sample * (uniform_filter(two * two, WINDOW) - mean_two**2)
    both = sample * (uniform_filter(one * two, WINDOW) - mean_one * mean_two)
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    top = (2 * mean_one * mean_two + c1) * (2 * both + c2)
    bottom = (mean_one**2 + mean_two**2 + c1) * (var_one + var_two + c2)
    inside = slice(WINDOW // 2, -(WINDOW // 2))
    return float((top / bottom)[inside, inside].mean())


@dataclass(frozen=True, slots=True)
class Score:
    """One entry per original. match: index of its reconstruction, -1 for none; psnr, ssim: of that pair, -CEILING and nan for
    none; label_accuracy: share of originals whose matched label is right, None without labels.
    """

    match: tuple[int, ...]
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    label_accuracy: float | None

    @property
    def median(self) -> float:
        """Median PSNR over the originals."""
        return float(np.median(self.psnr))

    def above(self, level: float) -> float:
        """Share of the originals above so many dB."""
        return float(np.mean(np.asarray(self.psnr) > level))


def score(
    images: Array, truth: Array, width: float = 1.0, labels: Array | None = None, true_labels: Array | None = None
) -> Score:
    """images: (found, ...), truth: (n, ...): each original takes one reconstruction, so that squared errors sum to least."""
    count = len(truth)
    match, values, alike = [-1] * count, [-CEILING] * count, [float("nan")] * count
    if len(images):
        flat = np.nan_to_num(np.asarray(images, np.float64).reshape(len(images), -1), nan=1e6, posinf=1e6, neginf=-1e6)
        wide = truth.reshape(count, -1).astype(np.float64)
        costs = np.array([np.mean(np.clip((flat - one) ** 2, 0, 1e12), axis=1) for one in wide])
        for row, column in zip(*linear_sum_assignment(costs), strict=True):
            match[row] = int(column)
            values[row] = psnr(flat[column], wide[row], width)
            alike[row] = ssim(flat[column].reshape(truth.shape[1:]), truth[row], width) if truth.ndim > 2 else float("nan")
    right = None
    if labels is not None and true_labels is not None:
        right = float(np.mean([at >= 0 and int(labels[at]) == int(one) for at, one in zip(match, true_labels, strict=True)]))
    return Score(tuple(match), tuple(values), tuple(alike), right)
