"""Originals beside what was read of them, as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.core.vectors import Array

ACROSS = 8
"""Images side by side."""


def grid(
    path: Path,
    truth: Sequence[Array] | None,
    found: Sequence[Array | None],
    psnr: Sequence[float] | None,
    box: tuple[float, float],
) -> None:
    """A PNG: rows of originals (where the truth is given), their reconstructions below. Images: (channels, height, width)."""
    from matplotlib.figure import Figure

    lines = -(-len(found) // ACROSS)
    deep = 2 if truth is not None else 1
    figure = Figure(figsize=(1.1 * min(ACROSS, len(found)), (0.1 + 1.15 * deep) * lines), layout="constrained")
    axes = figure.subplots(deep * lines, min(ACROSS, len(found)), squeeze=False)
    for one in axes.flat:
        one.axis("off")
    for at, image in enumerate(found):
        row, column = deep * (at // ACROSS), at % ACROSS
        if truth is not None:
            _show(axes[row][column], truth[at], box)
        if image is not None:
            _show(axes[row + deep - 1][column], image, box)
        if psnr is not None:
            axes[row + deep - 1][column].set_title(f"{psnr[at]:.0f} dB", fontsize=7, pad=2)
    figure.savefig(path, dpi=110)


def _show(axes: Any, image: Array, box: tuple[float, float]) -> None:
    low, high = box
    flat = np.clip((np.nan_to_num(np.asarray(image, np.float64)) - low) / max(high - low, 1e-12), 0, 1)
    drawn = np.moveaxis(flat, 0, -1) if len(flat) == 3 else flat[0]
    axes.imshow(drawn, cmap=None if len(flat) == 3 else "gray", vmin=0, vmax=1, interpolation="nearest")
