"""Every label-poisoning attack by name, behind one signature: for device tasks, plans of attacks and studies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from edgehold.attacks.poisoning.alfa import alfa
from edgehold.attacks.poisoning.lfa import lfa
from edgehold.attacks.poisoning.search import searched
from edgehold.attacks.poisoning.simple import every_label, farthest, heaviest, nearest, random_flips
from edgehold.attacks.poisoning.tilt import alfa_tilt
from edgehold.attacks.poisoning.victim import Classes, SvmVictim
from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream


@dataclass(frozen=True, slots=True)
class Scene:
    """What an attacker may look at. x: (n, d) records; labels: (n,) clean ones; classes: how many; gamma, cost: the machine it
    trains; held, held_labels: held-out records, none for the training records themselves.
    """

    x: Any
    labels: Classes
    classes: int = 2
    gamma: float = 0.1
    cost: float = 10.0
    held: Any = None
    held_labels: Classes | None = None

    @property
    def victim(self) -> SvmVictim:
        """The machine; `ConfigError` with more than two classes."""
        if self.classes != 2:
            raise ConfigError(f"this attack flips labels of two classes; there are {self.classes}. Choose random or every")
        return SvmVictim(self.x, self.gamma, self.cost, self.held)


Attack: TypeAlias = Callable[[Scene, int, np.random.Generator], Classes]

ATTACKS: Mapping[str, Attack] = {
    "random": lambda scene, flips, rng: random_flips(scene.labels, flips, rng, scene.classes),
    "every": lambda scene, flips, rng: every_label(scene.labels, scene.classes),
    "heaviest": lambda scene, flips, rng: heaviest(scene.labels, flips, scene.victim, rng),
    "heavy": lambda scene, flips, rng: heaviest(scene.labels, flips, scene.victim, rng, 2.0),
    "farthest": lambda scene, flips, rng: farthest(scene.labels, flips, scene.victim),
    "nearest": lambda scene, flips, rng: nearest(scene.labels, flips, scene.victim),
    "alfa": lambda scene, flips, rng: alfa(scene.labels, flips, scene.victim),
    "alfa-tilt": lambda scene, flips, rng: alfa_tilt(scene.labels, flips, scene.victim, rng),
    "search": lambda scene, flips, rng: searched(
        scene.labels, flips, scene.victim, scene.labels if scene.held_labels is None else scene.held_labels, rng
    ),
    "lfa": lambda scene, flips, rng: lfa(
        scene.labels, flips, scene.victim, scene.labels if scene.held_labels is None else scene.held_labels
    ),
}


def poisoned(name: str, scene: Scene, share: float, seed: int) -> Classes:
    """Labels with round(share * n) of them flipped; the same seed gives the same flips. "every" flips all, whatever the
    share.
    """
    if name not in ATTACKS:
        raise ConfigError(f"no label-poisoning attack {name!r}{suggest(name, list(ATTACKS))}", field="poison")
    if not 0 <= share <= 1:
        raise ConfigError(f"share = {share}; expected 0 to 1", field="share")
    return ATTACKS[name](scene, round(share * len(scene.labels)), stream(seed, "poison", name))
