"""What the demo ends with: words for people, JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgehold.attacks.demo.comparison import comparison
from edgehold.attacks.demo.memory import Peaks
from edgehold.attacks.demo.outcome import Outcome, scenarios
from edgehold.attacks.demo.picture import plot

PICTURE = "accuracy.png"


@dataclass(frozen=True, slots=True)
class Report:
    """All runs of all seeds. central: accuracy of the same model trained in one place, the mean over the seeds; peaks: of
    memory. Either is None where nobody looked.
    """

    outcomes: Sequence[Outcome]
    central: float | None
    peaks: Peaks | None

    def draw(self, results: Path) -> None:
        """The picture, into the folder of the results."""
        plot(self.outcomes, self.central, results / PICTURE)

    def text(self, results: Path) -> str:
        """For terminals. results: the folder that people look for models, picture and logs in."""
        peaks, last = self.peaks, self.outcomes[-len(scenarios(self.outcomes)) :]
        lines = [comparison(self.outcomes, self.central), ""]
        if self.central is not None:
            lines.append(f"Accuracy of the same model trained in one place on all records: {self.central:.3f}")
        if peaks is not None:
            lines.append(
                f"Peak memory: fl-server {peaks.server:.0f} MB (and its scoring process {peaks.scorer:.0f} MB), "
                f"largest fl-client {peaks.client:.0f} MB"
            )
        lines.append(f"Models: {', '.join(str(results / one.model) for one in last)}")
        lines.append(f"Picture: {results / PICTURE}; logs: {results / last[-1].model.parent / 'logs'}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the JSON file."""
        said: dict[str, Any] = {"runs": [one.as_dict() for one in self.outcomes]}
        if self.central is not None:
            said["central_accuracy"] = self.central
        if self.peaks is not None:
            said["peak_rss_mb"] = {"server": round(self.peaks.server, 1), "client": round(self.peaks.client, 1)}
        return said

    def write(self, path: Path) -> None:
        """The JSON file."""
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")
