"""How much memory server and clients held at most."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgehold.attacks.demo.processes import helpers
from edgehold.attacks.testbed import Federation, Process


@dataclass
class Peaks:
    """Largest resident memory seen, in MB. scorer: the server's own child process that holds the test data."""

    server: float = 0.0
    scorer: float = 0.0
    client: float = 0.0

    def look(self, bed: Federation) -> None:
        """Read it off the processes that run now."""
        self.server = max(self.server, _of_process(bed.daemon))
        self.client = max([self.client, *(_of_process(client) for client in bed.clients.values())])
        self.scorer = max([self.scorer, *(peak_mb(helper.pid) for helper in helpers(bed))])


def _of_process(process: Process) -> float:
    return peak_mb(process.child.pid) if process.alive and process.child else 0.0


def peak_mb(pid: int) -> float:
    """Largest resident memory of a process so far, in MB; 0 for one that is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    # No /proc: what it holds now, which for these processes is close to the peak.
    with contextlib.suppress(psutil.Error):
        return float(psutil.Process(pid).memory_info().rss) / 1e6
    return 0.0
