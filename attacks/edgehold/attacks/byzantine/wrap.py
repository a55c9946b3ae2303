"""Turning an honest client half into a lying one: by another update of any kind, or by another change of the model."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, cast

import numpy as np

from edgehold.core.contract import ClientSide, Facts
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.task import Task
from edgehold.core.vectors import Array, FloatArray, Vector

Memory = dict[str, Array]
Lie = Callable[[Any, FloatArray, np.random.Generator, Memory], Array]
"""(order, honest change (d,) float32, the client's randomness, memory to read and write) -> what to send instead, (d,)."""
Rewrite = Callable[[Any, Any, np.random.Generator, Memory], Any]
"""(order, honest update, the client's randomness, memory to read and write) -> the update to send instead."""


@dataclass(frozen=True)
class Minded:
    """Local state of a liar that remembers: the honest half's, and its own."""

    local: Any
    memory: Memory = field(default_factory=dict)


@dataclass(frozen=True)
class Remembering:
    """The part of a liar that keeps a memory between rounds: it lies with the device's local state, so that it survives a
    restart. What the liar does is its subclass's `work`, on `Minded` states.
    """

    honest: ClientSide[Any, Any, Any]

    def begin(self, order: Any, task: Task, rng: np.random.Generator) -> Any:
        """As the honest client, with an empty memory."""
        return Minded(self.honest.begin(order, task, rng))

    def dump(self, local: Any) -> bytes:
        """The memory's length in eight bytes, its arrays (npz), then the honest state."""
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **local.memory)
        return len(file.getvalue()).to_bytes(8, "little") + file.getvalue() + self.honest.dump(local.local)

    def load(self, data: bytes) -> Any:
        """Inverse of `dump`; `WrongShape` for bytes that are none of this liar's."""
        size = int.from_bytes(data[:8], "little")
        if len(data) < 8 + size:
            raise WrongShape(f"local state of {len(data)} bytes says that its memory has {size}; start the device's run anew")
        with np.load(io.BytesIO(data[8 : 8 + size]), allow_pickle=False) as found:
            return Minded(self.honest.load(data[8 + size :]), dict(found))


@dataclass(frozen=True)
class Rewriter(Remembering):
    """Works honestly, then sends `rewrite(order, update, rng, memory)` instead of its update.

    remembers: the lie keeps something between rounds; otherwise local states are the honest client's.
    """

    rewrite: Rewrite
    remembers: bool = False

    def begin(self, order: Any, task: Task, rng: np.random.Generator) -> Any:
        """As the honest client, with an empty memory where there is one."""
        return super().begin(order, task, rng) if self.remembers else self.honest.begin(order, task, rng)

    def work(self, order: Any, local: Any, task: Task, rng: np.random.Generator) -> tuple[Any, Any, Facts]:
        """Honest work with another update."""
        memory = dict(local.memory) if self.remembers else {}
        kept, update, facts = self.honest.work(order, local.local if self.remembers else local, task, rng)
        lie = self.rewrite(order, update, rng, memory)
        return Minded(kept, memory) if self.remembers else kept, lie, facts

    def dump(self, local: Any) -> bytes:
        """As the honest client, after the memory where there is one."""
        return super().dump(local) if self.remembers else self.honest.dump(local)

    def load(self, data: bytes) -> Any:
        """Inverse of `dump`."""
        return super().load(data) if self.remembers else self.honest.load(data)


def liar(honest: ClientSide[Any, Any, Any], lie: Lie, remembers: bool = False) -> Rewriter:
    """Sends another change of the model; at work a `ConfigError` when the method's update has none."""

    def rewrite(order: Any, update: Any, rng: np.random.Generator, memory: Memory) -> Any:
        return with_delta(update, lie(order, delta_of(update).whole(), rng, memory))

    return Rewriter(honest, rewrite, remembers)


def delta_of(update: Any) -> Vector:
    """The change an update carries; `ConfigError` when it carries none."""
    if not is_dataclass(update) or isinstance(update, type) or "delta" not in {f.name for f in fields(update)}:
        raise ConfigError(
            f"this attack changes updates that carry a delta; {type(update).__qualname__} has none. "
            "Choose an attack on this method's own payload"
        )
    return cast(Vector, cast(Any, update).delta)


def with_delta(update: Any, delta: Array) -> Any:
    """The update with another change, rounded to float32 (what is beyond its range becomes infinite, which no law allows)."""
    with np.errstate(over="ignore"):
        return replace(update, delta=Vector.of(delta.astype(np.float32, copy=False)))
