"""What one run gave, or why it gave nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgehold.attacks.demo.plan import Scenario


@dataclass
class Outcome:
    """What one run gave. accuracies: after each round, on the server's held-out test records."""

    scenario: Scenario
    seed: int
    accuracies: list[float]
    seconds: float
    bytes_up: int
    model: Path

    @property
    def accuracy(self) -> float:
        """After the last round."""
        return self.accuracies[-1]

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the JSON file."""
        return {
            "name": self.scenario.name,
            "accuracy": self.accuracy,
            "seconds": round(self.seconds, 3),
            "rounds": len(self.accuracies),
            "bytes_up": self.bytes_up,
            "seed": self.seed,
        }


class Failed(Exception):
    """The demo cannot go on; the message says why."""


def scenarios(outcomes: Sequence[Outcome]) -> tuple[Scenario, ...]:
    """What was played, in the order it was played in."""
    return tuple(dict.fromkeys(one.scenario for one in outcomes))
