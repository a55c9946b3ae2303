"""What each client said last, in the state of a server half that remembers it: an id and a row of numbers for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgehold.core.vectors import Blob, Space, Vector, written

Rows: TypeAlias = dict[str, NDArray[np.float64]]
"""Client -> what it said last, (n,) float64; the same n for all."""


@dataclass(frozen=True, slots=True)
class Memory:
    """clients: ids in ascending order as text, one a line. rows: (clients * n,) float64, in that order."""

    clients: Vector
    rows: Vector

    @classmethod
    def of(cls, rows: Rows, space: Space) -> "Memory | None":
        """None where nobody has said anything."""
        if not rows:
            return None
        names = sorted(rows)
        text = np.frombuffer("\n".join(names).encode(), dtype=np.uint8)
        return cls(written(text, space, "u1"), written(np.concatenate([rows[name] for name in names]), space, "<f8"))

    @classmethod
    def stored(cls, blobs: Mapping[str, Blob]) -> "Memory | None":
        """Inverse of `blobs`, among the other blobs of a packed state."""
        return cls(Vector(blobs["clients"], "u1"), Vector(blobs["rows"], "<f8")) if "rows" in blobs else None

    def blobs(self) -> dict[str, Blob]:
        """For a packed state."""
        return {"clients": self.clients.blob, "rows": self.rows.blob}

    @property
    def names(self) -> list[str]:
        """Clients in ascending order."""
        return bytes(self.clients.whole()).decode().split("\n")

    def read(self) -> Rows:
        """By client, in ascending order."""
        names = self.names
        return dict(zip(names, self.rows.whole().reshape(len(names), -1), strict=True))
