"""Where the demo works, and what of it stays."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from edgehold.attacks.demo.outcome import Failed

HOMES = "federation"
"""Folder of all homes, below the results."""


@dataclass
class Folders:
    """results: models, logs, picture; work: homes of server and clients while they run."""

    results: Path
    work: Path = field(init=False)

    def __post_init__(self) -> None:
        self.work = self.results / HOMES
        self.results.mkdir(exist_ok=True)
        # Left by an earlier demo: its keys and journals are of no use to this one.
        if (self.work / "demo").exists():
            shutil.rmtree(self.work)
        elif self.work.exists():
            raise Failed(f"{self.work} is there already and not of this demo; choose another folder with --keep")
        self.work.mkdir(mode=0o700)
        (self.work / "demo").touch()

    def of_seed(self, seed: int, many: bool) -> tuple[Path, Path]:
        """Homes and results of one seed."""
        results = self.results / f"seed-{seed}" if many else self.results
        results.mkdir(exist_ok=True)
        return self.work / f"seed-{seed}", results

    def keep_logs(self, homes: Path, results: Path) -> None:
        """Copy what the processes said."""
        logs = results / "logs"
        logs.mkdir(exist_ok=True)
        for log in homes.glob("*.log"):
            shutil.copy(log, logs / log.name)

    def drop_homes(self) -> None:
        """Remove keys and journals."""
        shutil.rmtree(self.work)
