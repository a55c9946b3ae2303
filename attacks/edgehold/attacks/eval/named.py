"""Adversaries by name: they travel to other processes, and a stored run can tell whether it has the same ones."""

from dataclasses import dataclass, field
from typing import Any

from edgehold.client.config import call
from edgehold.core.contract import ClientSide


@dataclass(frozen=True)
class Named:
    """The adversary that `entry` ("package.module:function") makes of `options`, made where it is used."""

    entry: str
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        """The lying half."""
        found: ClientSide[Any, Any, Any] = call(self.entry, self.options, "adversary.entry")(honest, client)
        return found
