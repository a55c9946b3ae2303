"""Client halves for tests, by name, so that they exist in worker processes too."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.contract import Adversary, ClientSide, Facts
from edgehold.core.task import LocalTraining, Task
from edgehold.core.vectors import FloatArray, Vector
from edgehold.defenses.baselines.fedavg.state import Update


class Counting:
    """Local state: how many rounds it has worked, and a number drawn at first contact. It sends their sum."""

    def begin(self, order: Any, task: Task, rng: np.random.Generator) -> tuple[int, float]:
        return 0, float(np.float32(rng.random()))

    def work(
        self, order: Any, local: tuple[int, float], task: Task, rng: np.random.Generator
    ) -> tuple[tuple[int, float], Update, Facts]:
        rounds, drawn = local[0] + 1, local[1]
        return (rounds, drawn), Update(Vector.of(np.full(order.model.size, rounds + drawn, np.float32)), 1), {}

    def dump(self, local: tuple[int, float]) -> bytes:
        return np.array(local).tobytes()

    def load(self, data: bytes) -> tuple[int, float]:
        rounds, drawn = np.frombuffer(data)
        return int(rounds), float(drawn)


def counting() -> Adversary:
    def adversary(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        return Counting()

    return adversary


@dataclass(frozen=True)
class Deadly(SyntheticTask):
    """Adds noise; kills its own process when it has trained as often as the file `fuse` says, if it is there."""

    fuse: str = ""

    def train(self, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> FloatArray:
        fuse = Path(self.fuse)
        if self.fuse and fuse.exists():
            left = int(fuse.read_text()) - 1
            fuse.write_text(str(left))
            if left < 0:
                fuse.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return (start + rng.standard_normal(len(start)).astype(np.float32)).astype(np.float32)


def deadly(device_index: int, devices: int, fuse: str = "") -> Deadly:
    """fuse: a file with how many trainings there are before the process is killed."""
    return Deadly(50, 0.0, device_index + 2, fuse)
