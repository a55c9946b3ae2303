"""Attacks in the engine: liars that may know the whole round, with the code that lies on devices."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgehold.attacks.byzantine.knowledge import K2_RULE, Knowledge, Reach
from edgehold.attacks.byzantine.rule import ServerRule
from edgehold.attacks.byzantine.sight import LAST, Attack, Lies, Sight
from edgehold.attacks.byzantine.wrap import Memory, delta_of, with_delta
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array, FloatArray
from edgehold.server.engine import View


class _Mind:
    """What a plot remembers. It has no readable form on purpose: a run that is kept and goes on later could not give it back,
    and the engine refuses to keep runs of attackers whose form says nothing.
    """

    def __init__(self) -> None:
        self.memory: Memory = {}


@dataclass(frozen=True)
class Plot:
    """Clients `members` play `attack` together.

    granted: what they know of each round. Everybody's honest updates stand for the round where they are granted, else the
    members' own do. With the rule granted they may ask the server what it would make of a lie; told the rule itself, they work
    that out (`rule`). `NotGranted` for an attack that needs more.
    """

    members: frozenset[str]
    attack: Attack
    granted: Knowledge = K2_RULE
    rule: ServerRule | None = None
    _mind: _Mind | None = field(init=False, default=None, compare=False)

    def __post_init__(self) -> None:
        self.granted.grant(self.attack.needs, f"attack {type(self.attack).__name__}")
        if self.rule is not None and not self.granted.rule:
            raise ConfigError(f"rule = {self.rule.name!r} is told, but granted is {self.granted}; grant the rule, too")
        if self.attack.remembers or (self.rule is not None and self.rule.recipe.remembers):
            object.__setattr__(self, "_mind", _Mind())

    def lie(self, view: View) -> Mapping[str, Any]:
        """What each member sends; see `Conspiracy`."""
        own = {client: delta_of(update).whole() for client, update in view.own.items()}
        everybody = self.granted.reach >= Reach.ROUND
        others = {client: delta_of(update).whole() for client, update in view.honest.items()} if everybody else {}
        clients = len(view.own) + len(view.honest)
        model = view.model.whole() if all(len(change) == view.model.size for change in own.values()) else None
        memory = {} if self._mind is None else self._mind.memory
        outcome = self._outcome(view, model) if self.granted.rule and model is not None else None
        sight = Sight(own, others, model, clients, len(own), view.rng, memory, self.rule, outcome)
        lies: Lies = self.attack.lie(sight) if len(sight.known) >= self.attack.fewest else {}
        if self._mind is not None and model is not None:
            self._mind.memory[LAST] = model
        return {client: with_delta(view.own[client], lie) for client, lie in lies.items()}

    @staticmethod
    def _outcome(view: View, model: FloatArray) -> Any:
        def moved(lies: Lies) -> Array:
            sent = {client: with_delta(view.own[client], lie) for client, lie in lies.items()}
            return view.outcome(sent).whole().astype(np.float64) - model

        return moved
