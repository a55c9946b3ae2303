"""What a run leaves."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgehold.core.contract import Facts
from edgehold.core.errors import FlError
from edgehold.core.vectors import Vector, blocks


@dataclass(frozen=True)
class Result:
    """digest: of the model's bytes; rounds: facts per round; rejected: refusals by code.

    suspected: of a masked run, the chance for each client that it spoils sums (`edgehold.core.masks.suspicion`).
    """

    model: Vector
    digest: bytes
    rounds: list[Facts]
    rejected: Mapping[str, int] = field(default_factory=dict)
    suspected: Mapping[str, float] = field(default_factory=dict)


class TooFewAdmitted(FlError):
    """A round that all its attempts could not close. refused: clients whose updates were refused in the last of them."""

    def __init__(self, message: str, refused: frozenset[str]) -> None:
        super().__init__(message)
        self.refused = refused


def model_digest(model: Vector) -> bytes:
    """SHA-256 of the model's float32 little-endian bytes."""
    digest = hashlib.sha256()
    for start, stop in blocks(model.size):
        digest.update(model.read(start, stop).astype("<f4", copy=False).data)
    return digest.digest()
