"""A device half with a memory and with noise of its own: what must neither be done twice nor sent in two versions.

Named as `[adversary]` in a client's configuration, because that wraps any method inside the real daemon.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.core.contract import ClientSide
from edgehold.core.vectors import Vector


class Stateful:
    """Counts the rounds that were counted, adds fresh noise to every update, and writes down each time it works."""

    def __init__(self, honest: ClientSide[Any, Any, Any], log: Path) -> None:
        self._honest = honest
        self._log = log

    def begin(self, order: Any, task: Any, rng: Any) -> int:
        return 0

    def work(self, order: Any, local: int, task: Any, rng: Any) -> Any:
        _, update, facts = self._honest.work(order, None, task, rng)
        with self._log.open("a", encoding="ascii") as file:
            file.write(f"{local}\n")
        noise = np.frombuffer(os.urandom(update.delta.size), np.uint8).astype("<f4") / 2**20
        return local + 1, replace(update, delta=Vector.of(update.delta.whole() + noise)), facts

    def dump(self, local: int) -> bytes:
        return local.to_bytes(8, "little")

    def load(self, data: bytes) -> int:
        return int.from_bytes(data, "little")


def make(log: str) -> Any:
    return lambda honest, client: Stateful(honest, Path(log))
