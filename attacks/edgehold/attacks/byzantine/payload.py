"""Lies in a method's own payload that take their time: what an attack is given, and how a device plays it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from edgehold.attacks.byzantine.knowledge import Knowledge
from edgehold.attacks.byzantine.wrap import Memory, Rewriter
from edgehold.core.contract import Adversary, ClientSide
from edgehold.core.errors import ConfigError


class PayloadAttack(Protocol):
    """A lie in updates of one kind."""

    @property
    def needs(self) -> Knowledge:
        """The least it can be played with."""

    def tell(self, order: Any, own: Any, known: Sequence[Any], clients: int, memory: Memory) -> Any:
        """The update to send. own: the honest one; known: the honest updates of all liars, its own among them; clients: in a
        round; memory: this liar's, to read and write. `ConfigError` for updates of another kind.
        """


Pool = Callable[[str, Any, Any], Sequence[Any]]
"""(client, order, own honest update) -> those of all liars."""


def adversary(attack: PayloadAttack, clients: int, pool: Pool | None = None) -> Adversary:
    """Plays the attack on a device. pool: how liars tell each other; None: they do not."""

    def wrapped(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        def rewrite(order: Any, update: Any, rng: np.random.Generator, memory: Memory) -> Any:
            return attack.tell(order, update, pool(client, order, update) if pool else [update], clients, memory)

        return Rewriter(honest, rewrite, remembers=True)

    return wrapped


def of_kind(update: Any, kind: type, what: str, method: str) -> None:
    """`ConfigError` for an update of another method."""
    if not isinstance(update, kind):
        raise ConfigError(
            f"this attack changes {what}; {type(update).__qualname__} has none. Use it with method {method}"
        )  # fmt: skip
