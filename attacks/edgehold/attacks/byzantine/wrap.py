"""Turning an honest client half into a lying one, for any method whose update is a change of the model."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from edgehold.core.contract import ClientSide, Facts
from edgehold.core.errors import ConfigError
from edgehold.core.task import Task
from edgehold.core.vectors import FloatArray, Vector

Lie = Callable[[Any, FloatArray, np.random.Generator], FloatArray]
"""(order, honest change (d,) float32, the client's randomness) -> what to send instead, (d,) float32."""


@dataclass(frozen=True)
class Liar:
    """Works honestly, then sends `lie(order, delta, rng)` instead of its delta."""

    honest: ClientSide[Any, Any, Any]
    lie: Lie

    def begin(self, order: Any, task: Task, rng: np.random.Generator) -> Any:
        """As the honest client."""
        return self.honest.begin(order, task, rng)

    def work(self, order: Any, local: Any, task: Task, rng: np.random.Generator) -> tuple[Any, Any, Facts]:
        """Honest work with another delta; `ConfigError` when the method's update has none."""
        local, update, facts = self.honest.work(order, local, task, rng)
        if not is_dataclass(update) or isinstance(update, type) or "delta" not in {f.name for f in fields(update)}:
            raise ConfigError(
                f"this attack changes updates that carry a delta; {type(update).__qualname__} has none. "
                "Choose an attack on this method's own payload"
            )
        honest: Vector = getattr(update, "delta")  # noqa: B009  (its type says only that it is some dataclass)
        lie = self.lie(order, honest.whole(), rng)
        return local, replace(update, delta=Vector.of(lie.astype(np.float32, copy=False))), facts

    def dump(self, local: Any) -> bytes:
        """As the honest client."""
        return self.honest.dump(local)

    def load(self, data: bytes) -> Any:
        """As the honest client."""
        return self.honest.load(data)
