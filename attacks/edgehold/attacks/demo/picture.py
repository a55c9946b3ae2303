"""Accuracy after each round, as a picture."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from edgehold.attacks.demo.outcome import Outcome, scenarios

COLOURS = {"clean": "#2b6cb0", "attacked": "#c53030", "defended": "#2f855a"}


def plot(outcomes: Sequence[Outcome], central: float | None, path: Path) -> None:
    """A line per run and seed; dashed, where there is one, the same model trained in one place."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    if central is not None:
        axes.axhline(central, color="#718096", linestyle="--", linewidth=1, label=f"trained in one place ({central:.3f})")
    for scenario in scenarios(outcomes):
        mine = [one for one in outcomes if one.scenario == scenario]
        mean = statistics.mean(one.accuracy for one in mine)
        liars = f"{scenario.liars} liars" if scenario.lied else "no liars"
        for number, one in enumerate(mine):
            axes.plot(
                range(1, len(one.accuracies) + 1), one.accuracies, color=COLOURS[scenario.name], linewidth=1.8, alpha=0.9,
                label=None if number else f"{scenario.name}: {scenario.rule.replace('_', ' ')}, {liars} ({mean:.3f})",
            )  # fmt: skip
    axes.set(
        xlabel="round",
        ylabel="accuracy on the server's test records",
        ylim=(0, 1.02),
        xlim=(1, max(2, len(outcomes[0].accuracies))),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="center right", frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
