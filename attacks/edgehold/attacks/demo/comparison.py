"""The runs side by side, as a table."""

import statistics
import sys
from collections.abc import Sequence

from edgehold.attacks.demo.outcome import Outcome, scenarios
from edgehold.server.desk.show import size, table


def sparkline(values: Sequence[float], encoding: str) -> str:
    """Values from 0 to 1 as one character each."""
    levels = "▁▂▃▄▅▆▇█" if encoding.lower().startswith("utf") else "_.:-=+*#"
    return "".join(levels[min(int(value * len(levels)), len(levels) - 1)] for value in values)


def comparison(outcomes: Sequence[Outcome], central: float | None) -> str:
    """The runs side by side; over several seeds the mean and the spread.

    central: None where nothing was trained in one place.
    """
    encoding, rows = sys.stdout.encoding or "ascii", []
    seeds = len({one.seed for one in outcomes})
    for scenario in scenarios(outcomes):
        mine = [one for one in outcomes if one.scenario == scenario]
        scores = [one.accuracy for one in mine]
        mean = statistics.mean(scores)
        spread = [f"{min(scores):.3f} to {max(scores):.3f}"] if seeds > 1 else []
        rows.append(
            [
                scenario.name, f"{scenario.method}/{scenario.rule}",
                f"{scenario.liars if scenario.lied else 0} of {scenario.clients}",
                f"{mean:.3f}", *spread, *([] if central is None else [f"{mean - central:+.3f}"]), str(len(mine[0].accuracies)),
                f"{statistics.mean(one.seconds for one in mine):.1f}",
                size(statistics.mean(one.bytes_up for one in mine)), sparkline(mine[0].accuracies, encoding),
            ]
        )  # fmt: skip
    titles = ["RUN", "RULE", "LIARS", "ACCURACY", *(["LOWEST TO HIGHEST"] if seeds > 1 else [])]
    titles += [] if central is None else ["TO CENTRAL"]
    return table([*titles, "ROUNDS", "SECONDS", "UP", "ACCURACY BY ROUND"], rows)
