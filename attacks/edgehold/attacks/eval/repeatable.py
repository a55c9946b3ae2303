"""Devices whose private draws repeat, for studies and tests that play a run twice. On a real device they would be no secret.

In client.toml: [adversary] entry = "edgehold.attacks.eval.repeatable:make".
"""

from typing import Any

from edgehold.core.contract import Adversary, ClientSide
from edgehold.defenses.hyperfl.client import HyperFLClient


def make() -> Adversary:
    """HyperFL's honest device half, which draws embedding and head from the run's stream alone; other halves as they are."""

    def adversary(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        return HyperFLClient(draw=lambda: b"") if isinstance(honest, HyperFLClient) else honest

    return adversary
