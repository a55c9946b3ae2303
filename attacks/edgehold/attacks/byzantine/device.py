"""Attacks on real devices: a client's own configuration names one, and it lies through the real protocol.

In client.toml: [adversary] entry = "edgehold.attacks.byzantine.device:make",
options = {attack = "min_max", options = {direction = "sign"}, folder = "...", colluders = 2, cohort = 10}.
A device grants its liars their own updates (K1, through a `channel` where there are several), and the server's rule where its
configuration tells it (+A). It can never grant everybody's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgehold.attacks.byzantine.channel import Channel, round_key
from edgehold.attacks.byzantine.knowledge import Knowledge, Reach
from edgehold.attacks.byzantine.sight import LAST, Attack, Sight
from edgehold.attacks.byzantine.wrap import Memory, liar
from edgehold.core.contract import Adversary, ClientSide
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array, FloatArray, Vector

if TYPE_CHECKING:
    from edgehold.attacks.byzantine.rule import ServerRule


def adversary(
    attack: Attack, folder: str = "", colluders: int = 1, cohort: int | None = None, wait_s: float = 5.0,
    rule: "ServerRule | None" = None,
) -> Adversary:  # fmt: skip
    """Sends what the attack makes of the liars' honest updates.

    folder: shared by the liars alone, made if missing; a single one needs none. colluders: how many there are. cohort: clients
    in a round, where anybody knows. wait_s: how long to wait for the others' updates of this round; after that their latest
    ones serve, from whatever round. rule: the server's. `NotGranted` for an attack that needs more than a device can know.
    """
    if colluders < attack.fewest or (cohort is not None and colluders >= cohort):
        upto = f" to {cohort - 1}" if cohort is not None else " or more"
        raise ConfigError(f"colluders = {colluders} of cohort = {cohort}; allowed: {attack.fewest}{upto}")
    if colluders > 1 and attack.needs.reach > Reach.OWN and not folder:
        raise ConfigError("several colluders need a folder that they share; set folder")
    Knowledge(Reach.LIARS, rule is not None).grant(attack.needs, f"attack {type(attack).__name__}")
    remembers = attack.remembers or (rule is not None and rule.recipe.remembers)
    channel = Channel(Path(folder), colluders, wait_s) if folder and colluders > 1 else None

    def wrapped(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        def lie(order: Any, delta: FloatArray, rng: np.random.Generator, memory: Memory) -> Array:
            carried = getattr(order, "model", None)
            model = carried.whole() if isinstance(carried, Vector) and carried.size == len(delta) else None
            own = {client: delta}
            if channel is not None and attack.needs.reach > Reach.OWN:
                if not isinstance(carried, Vector):
                    raise ConfigError("colluders tell rounds by the order's model, and this method's orders carry none")
                own = channel.share(client, round_key(carried), delta)
            found: Array = delta
            if len(own) >= attack.fewest:
                sight = Sight(own, {}, model, cohort or colluders + 1, colluders, rng, memory, rule)
                found = attack.lie(sight).get(client, delta)
            if remembers and model is not None:
                memory[LAST] = model
            return found

        return liar(honest, lie, remembers)

    return wrapped


def make(
    attack: str, options: Mapping[str, Any] | None = None, folder: str = "", colluders: int = 1, cohort: int | None = None,
    wait_s: float = 5.0, rule: str = "", rule_options: Mapping[str, Any] | None = None, liars: int | None = None,
) -> Adversary:  # fmt: skip
    """The attack of that name (`fl-eval attacks` lists them) with its options.

    rule, rule_options, liars: the server's rule as in its plan, where the liars know it; liars: colluders where not said.
    """
    from edgehold.attacks.byzantine.registry import attack_of
    from edgehold.attacks.byzantine.rule import ServerRule

    if not rule and (rule_options or liars is not None):
        raise ConfigError("rule_options and liars belong to a rule; set rule, too")
    known = ServerRule(rule, colluders if liars is None else liars, dict(rule_options or {})) if rule else None
    if known is not None:
        _ = known.recipe  # unknown names are refused here, not in the first round
    return adversary(attack_of(attack, options or {}), folder, colluders, cohort, wait_s, known)
