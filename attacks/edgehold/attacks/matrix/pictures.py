"""The plots of a report, each for light and for dark pages."""

from collections.abc import Sequence
from typing import Any

from edgehold.attacks.matrix.audited import Audited
from edgehold.attacks.matrix.grid import AVERAGE, Grid
from edgehold.attacks.matrix.judge import Judged, Price, Worst
from edgehold.attacks.matrix.themes import COLOURS, MARKS, Picture, both
from edgehold.attacks.matrix.verdict import Estimate, Verdict
from edgehold.attacks.privacy.membership.pictures import roc


def pictures(grid: Grid, judged: Judged) -> list[Picture]:
    """Those for which there is something to show."""
    found = []
    if any(one.value for one in _at_first(grid, judged.worst)):
        alt = "Lowest mean accuracy of every defence over the attacks that work, with intervals: " + ", ".join(
            f"{one.defence} on {one.data} {one.value.mean:.2f}" for one in _at_first(grid, judged.worst) if one.value
        )
        found.append(both("worst", "Worst case of every defence", alt, lambda figure, ink: _worst(figure, ink, grid, judged)))
    if any(one.value and one.share == grid.matrix.matrix.shares[0] for one in judged.verdicts):
        alt = "Heat map of the mean score of every defence (rows) under every attack (columns); the table has the numbers"
        found.append(both("heat", "Score by defence and attack", alt, lambda figure, ink: _heat(figure, ink, grid, judged)))
    curves = _curves(grid, judged)
    if curves:
        ends = [f"{name} on {data} {points[-1][1].mean:.2f}" for (data, name), points in curves.items()]
        alt = "Accuracy falls as the share of liars grows; at the largest share: " + ", ".join(ends)
        found.append(both("share", "Accuracy against the share of liars", alt, lambda f, ink: _share(f, ink, grid, curves)))
    private = [one for one in judged.prices if one.epsilon is not None]
    if private:
        alt = "Accuracy against epsilon, nobody lies: " + ", ".join(
            f"{one.defence} on {one.data} {one.accuracy:.2f} at {one.epsilon:.1f}" for one in private
        )
        found.append(both("epsilon", "Accuracy against epsilon", alt, lambda figure, ink: _epsilon(figure, ink, private)))
    if judged.audited.points:
        alt = "Accuracy against epsilon of every method that adds noise on the device: " + ", ".join(
            f"{one.method} {one.accuracy.mean:.2f} at {one.epsilon:.1f}" for one in judged.audited.points
        )
        title = "Accuracy against epsilon, noise on the device"
        found.append(both("curve", title, alt, lambda figure, ink: _curve(figure, ink, judged.audited)))
    if judged.audited.curves and (shown := roc(judged.audited.curves)):
        found.append(shown)
    return found


def _at_first(grid: Grid, worst: Sequence[Worst]) -> list[Worst]:
    return [one for one in worst if one.share == grid.matrix.matrix.shares[0]]


def _ends(one: Estimate) -> list[list[float]]:
    # The interval of a minimum may lie to one side of it.
    return [[max(0.0, one.mean - one.low)], [max(0.0, one.high - one.mean)]]


def _worst(figure: Any, ink: str, grid: Grid, judged: Judged) -> None:
    """A dot with its interval per defence; hollow, nobody lies. In brackets: attacks counted, where not all fit."""
    places = [data for data in grid.data if any(one.data == data and one.value for one in _at_first(grid, judged.worst))]
    here = {data: [one for one in _at_first(grid, judged.worst) if one.data == data and one.value] for data in places}
    rows = max(len(found) for found in here.values())
    figure.set_size_inches(3.9 * len(places) + 0.6, 0.27 * rows + 1.1)
    for axes, data in zip(figure.subplots(1, len(places), squeeze=False)[0], places, strict=True):
        found = sorted(here[data], key=lambda one: one.value.mean if one.value else 0.0)
        for at, one in enumerate(found):
            assert one.value
            colour = COLOURS[0] if one.defence == AVERAGE else COLOURS[1]
            axes.errorbar(one.value.mean, at, xerr=_ends(one.value), fmt="o", color=colour, capsize=3, markersize=5)
            if one.clean:
                axes.plot(one.clean.mean, at, "o", markerfacecolor="none", markeredgecolor=ink, markersize=5)
        axes.set(xlim=(0, 1), title=data, xlabel="accuracy (hollow: nobody lies)")
        axes.set_yticks(range(len(found)), [f"{one.defence} ({one.counted})" if one.missed else one.defence for one in found])
        axes.grid(axis="x", alpha=0.3)


def _heat(figure: Any, ink: str, grid: Grid, judged: Judged) -> None:
    first = grid.matrix.matrix.shares[0]
    places = [data for data in grid.data if any((v.data, v.share) == (data, first) and v.value for v in judged.verdicts)]
    attacks = list(grid.attacks)
    figure.set_size_inches(0.62 * len(attacks) + 2.6, (0.25 * len(grid.defences) + 1.5) * len(places))
    for axes, data in zip(figure.subplots(len(places), 1, squeeze=False)[:, 0], places, strict=True):
        here = {(v.defence, v.attack): v for v in judged.verdicts if (v.data, v.share) == (data, first) and v.value}
        rows = [name for name in grid.defences if any(name == defence for defence, _ in here)]
        values = [[_mean(here.get((row, column))) for column in attacks] for row in rows]
        axes.imshow(values, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                if value == value:
                    idle = not here[rows[y], attacks[x]].works
                    axes.text(
                        x,
                        y,
                        f"({value:.2f})" if idle else f"{value:.2f}",
                        ha="center",
                        va="center",
                        color="#1a202c",
                        fontsize=7,
                    )
        axes.set_xticks(range(len(attacks)), attacks, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_title(f"{data}; in brackets: the attack does not work here")
        axes.tick_params(length=0)


def _mean(one: Verdict | None) -> float:
    return one.value.mean if one and one.value else float("nan")


Curves = dict[tuple[str, str], list[tuple[float, Estimate]]]


def _curves(grid: Grid, judged: Judged) -> Curves:
    """(data, defence) -> (share, lowest mean over the attacks that it met at every share), from the clean run on."""
    found: Curves = {}
    shares = sorted({v.share for v in judged.verdicts})
    for data in grid.data:
        for defence in grid.defences:
            mine = {(v.share, v.attack): v for v in judged.verdicts
                    if (v.data, v.defence, v.metric) == (data, defence, "accuracy") and v.value}  # fmt: skip
            common = (
                set.intersection(*({attack for at, attack in mine if at == share} for share in shares)) if shares else set()
            )
            if len(shares) < 2 or not common:
                continue
            points: list[tuple[float, Estimate]] = []
            for share in shares:
                low = min((mine[share, attack] for attack in common), key=_mean)
                assert low.value
                assert low.clean
                if not points:
                    points.append((0.0, low.clean))
                points.append((share, low.value))
            found[data, defence] = points
    return found


def _share(figure: Any, ink: str, grid: Grid, curves: Curves) -> None:
    places = [data for data in grid.data if any(data == at for at, _ in curves)]
    figure.set_size_inches(4.6 * len(places) + 1.4, 3.6)
    names = list(dict.fromkeys(defence for _, defence in curves))
    names.sort(key=lambda name: name != AVERAGE)
    for axes, data in zip(figure.subplots(1, len(places), squeeze=False)[0], places, strict=True):
        for number, name in enumerate(names):
            if (data, name) not in curves:
                continue
            points = curves[data, name]
            x = [100 * share for share, _ in points]
            colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
            axes.plot(x, [one.mean for _, one in points], color=colour, marker=mark, markersize=4, linewidth=1.6, label=name)
            axes.fill_between(x, [one.low for _, one in points], [one.high for _, one in points], color=colour, alpha=0.12)
        axes.set(xlabel="liars, % of all clients", ylabel="accuracy under the worst attack", ylim=(0, 1), title=data)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)


def _epsilon(figure: Any, ink: str, private: Sequence[Price]) -> None:
    figure.set_size_inches(5.2, 3.4)
    axes = figure.subplots()
    for number, data in enumerate(dict.fromkeys(one.data for one in private)):
        mine = sorted((one for one in private if one.data == data), key=lambda one: one.epsilon or 0.0)
        x, y = [one.epsilon for one in mine], [one.accuracy for one in mine]
        axes.plot(x, y, marker=MARKS[number], color=COLOURS[number + 1], label=data)
        for one in mine:
            axes.annotate(one.defence, (one.epsilon, one.accuracy), fontsize=7, xytext=(4, 4), textcoords="offset points")
    axes.set(xscale="log", xlabel="epsilon", ylabel="accuracy, nobody lies", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _curve(figure: Any, ink: str, audited: Audited) -> None:
    """Lines for noise; dotted, the accuracy of the subjects that promise nothing."""
    figure.set_size_inches(5.2, 3.4)
    axes = figure.subplots()
    for number, method in enumerate(dict.fromkeys(one.method for one in audited.points), 1):
        mine = sorted((one for one in audited.points if one.method == method), key=lambda one: one.epsilon)
        ends = [[_ends(one.accuracy)[side][0] for one in mine] for side in (0, 1)]
        axes.errorbar(
            [one.epsilon for one in mine], [one.accuracy.mean for one in mine], yerr=ends, capsize=3, markersize=4,
            marker=MARKS[number % len(MARKS)], color=COLOURS[number % len(COLOURS)], label=method,
        )  # fmt: skip
    for subject in dict.fromkeys(one.subject for one in audited.membership if one.epsilon is None):
        level = next(one.accuracy.mean for one in audited.membership if one.subject == subject)
        axes.axhline(level, color=ink, linestyle=":", linewidth=0.8)
        axes.annotate(
            f"{subject}, no noise", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7
        )
    axes.set(xscale="log", xlabel="epsilon", ylabel="accuracy", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
