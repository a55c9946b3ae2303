"""What the demo ends with: words for people, JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgehold.attacks.demo.comparison import comparison
from edgehold.attacks.demo.memory import Peaks
from edgehold.attacks.demo.outcome import Outcome
from edgehold.attacks.demo.picture import plot
from edgehold.attacks.demo.plan import SCENARIOS

PICTURE = "accuracy.png"


@dataclass(frozen=True, slots=True)
class Report:
    """All runs of all seeds. central: accuracy of the same model trained in one place, the mean over the seeds."""

    outcomes: Sequence[Outcome]
    central: float
    peaks: Peaks

    def draw(self, results: Path) -> None:
        """The picture, into the folder of the results."""
        plot(self.outcomes, self.central, results / PICTURE)

    def text(self, results: Path) -> str:
        """For terminals. results: the folder that people look for models, picture and logs in."""
        peaks, last = self.peaks, self.outcomes[-len(SCENARIOS) :]
        return "\n".join(
            [
                comparison(self.outcomes, self.central),
                "",
                f"Accuracy of the same model trained in one place on all records: {self.central:.3f}",
                f"Peak memory: fl-server {peaks.server:.0f} MB (and its scoring process {peaks.scorer:.0f} MB), "
                f"largest fl-client {peaks.client:.0f} MB",
                f"Models: {', '.join(str(results / one.model) for one in last)}",
                f"Picture: {results / PICTURE}; logs: {results / last[-1].model.parent / 'logs'}",
            ]
        )

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the JSON file."""
        return {
            "runs": [one.as_dict() for one in self.outcomes],
            "central_accuracy": self.central,
            "peak_rss_mb": {"server": round(self.peaks.server, 1), "client": round(self.peaks.client, 1)},
        }

    def write(self, path: Path) -> None:
        """The JSON file."""
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")
