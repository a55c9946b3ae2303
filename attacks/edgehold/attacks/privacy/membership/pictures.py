"""Hits against false alarms, both on logarithmic axes: what counts is the left end."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgehold.attacks.matrix.themes import COLOURS, MARKS, Picture, both
from edgehold.attacks.privacy.membership.judge import GRID

FLOOR = 3e-4
"""Lower end of the axis of hits; none at all is drawn there."""


def roc(curves: Mapping[str, Sequence[Sequence[float]]]) -> Picture | None:
    """One line per subject, mean over runs, with the range of the runs behind it. curves: subject -> runs of hits at `GRID`.

    None where no run has enough non-members for two points.
    """
    shown = {name: np.asarray(runs, np.float64) for name, runs in curves.items()}
    shown = {name: runs for name, runs in shown.items() if len(runs) and np.isfinite(runs).all(axis=0).sum() >= 2}
    if not shown:
        return None
    ends = [f"{name} {100 * _at(runs, 0.01):.1f} %" for name, runs in shown.items() if _at(runs, 0.01) == _at(runs, 0.01)]
    alt = "Members found against false alarms, logarithmic; at 1 % false alarms: " + (", ".join(ends) or "too few records")
    return both("roc", "Members found against false alarms", alt, lambda figure, ink: _draw(figure, ink, shown))


def _at(runs: Any, alarm: float) -> float:
    return float(runs[:, GRID.index(alarm)].mean())


def _draw(figure: Any, ink: str, shown: Mapping[str, Any]) -> None:
    figure.set_size_inches(5.4, 4.2)
    axes = figure.subplots()
    axes.plot([FLOOR, 1], [FLOOR, 1], color=ink, linewidth=0.8, linestyle=":", label="guessing")
    for number, (name, runs) in enumerate(shown.items()):
        there = np.isfinite(runs).all(axis=0)
        x, y = np.asarray(GRID)[there], np.maximum(runs[:, there], FLOOR)
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(x, y.mean(axis=0), color=colour, marker=MARKS[number % len(MARKS)], markersize=4, linewidth=1.6, label=name)
        axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.15)
    axes.set(xscale="log", yscale="log", xlim=(8e-4, 1), ylim=(FLOOR, 1.05), xlabel="false alarms among non-members",
             ylabel="members found")  # fmt: skip
    axes.grid(alpha=0.3, which="both", linewidth=0.4)
    axes.legend(frameon=False, fontsize=8)
