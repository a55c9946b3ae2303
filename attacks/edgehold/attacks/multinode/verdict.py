"""What the three runs say together: a defence counts only against an attack that wins without it."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgehold.attacks.demo.outcome import Outcome

WINS = 0.1
"""An attack wins where it takes at least so much accuracy from the undefended run, for every seed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """taken: accuracy that the attack took from the undefended run, kept: share of that which the defence gave back, both by
    seed; won: whether the attack won.
    """

    taken: tuple[float, ...]
    kept: tuple[float, ...]
    won: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def text(self) -> str:
        """One line."""
        took = f"takes {statistics.mean(self.taken):.3f} of accuracy undefended{_spread(self.taken)}"
        if not self.won:
            return f"The attack {took}, less than {WINS:g} for at least one seed: nothing is proved about the defence."
        return f"The attack {took}; the defence gives {statistics.mean(self.kept):.1%} of it back{_spread(self.kept)}."


def judge(outcomes: Sequence[Outcome]) -> Verdict | None:
    """The verdict, where all three runs of every seed were played; None otherwise."""
    found = {(one.seed, one.scenario.name): one.accuracy for one in outcomes}
    seeds = sorted({seed for seed, _ in found})
    if not seeds or any((seed, run) not in found for seed in seeds for run in ("clean", "attacked", "defended")):
        return None
    taken = tuple(found[seed, "clean"] - found[seed, "attacked"] for seed in seeds)
    kept = tuple(
        (found[seed, "defended"] - found[seed, "attacked"]) / one if one > 0 else 0.0
        for seed, one in zip(seeds, taken, strict=True)
    )
    return Verdict(taken, kept, min(taken) >= WINS)


def _spread(values: Sequence[float]) -> str:
    return f" ({min(values):.3f} to {max(values):.3f} over {len(values)} seeds)" if len(values) > 1 else ""
