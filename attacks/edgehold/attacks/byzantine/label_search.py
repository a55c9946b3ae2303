"""Updates trained on labels that a search chose: ALFA, LFA and the other label-poisoning attacks, between two classes.

The searches flip labels of two classes, so the liar takes its own records of `source` and `target` and leaves the rest alone.
It trains a support vector machine on them, and flips the labels that harm that one most. Knowledge K0: its own records.
Sources: see `edgehold.attacks.poisoning`. Departure: there the victim is the machine itself; here a network that learns more
classes, whose weakness the machine only stands in for.
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.label_search:make", options = {search = "alfa", share = 0.5}.
"""

import hashlib
from typing import Any

import numpy as np

from edgehold.attacks.byzantine.bent import Learner, bent
from edgehold.attacks.poisoning.catalogue import ATTACKS, Scene, poisoned
from edgehold.core.config import suggest
from edgehold.core.contract import Adversary, ClientSide
from edgehold.core.errors import ConfigError
from edgehold.core.task import Task
from edgehold.core.vectors import Array

_KEPT = 256
_FOUND: dict[bytes, Array] = {}
"""Labels by everything that determines them; the oldest make room."""


def searched(x: Array, y: Array, search: str, source: int, target: int, share: float, seed: int) -> Array:
    """Labels (n,) with round(share * k) of the k records of the two classes turned into the other one. x: (n, ...).

    The machine's kernel is as wide as the records are far apart: gamma = 1 / (numbers of a record * their variance).
    """
    both = np.flatnonzero((y == source) | (y == target))
    out = y.copy()
    if not len(both):
        return out
    flat = x[both].reshape(len(both), -1).astype(np.float64)
    gamma = 1.0 / (flat.shape[1] * max(float(flat.var()), 1e-12))
    scene = Scene(flat, (y[both] == source).astype(np.int64), 2, gamma)
    out[both] = np.where(poisoned(search, scene, share, seed) == 1, source, target)
    return out


def make(search: str = "alfa", source: int = 7, target: int = 1, share: float = 0.5, seed: int = 0) -> Adversary:
    """Learns from labels that `search`, a name of `edgehold.attacks.poisoning.catalogue`, chose; the same in every round."""
    if search not in ATTACKS:
        raise ConfigError(f"search = {search!r}{suggest(search, list(ATTACKS))}", field="search")
    if source == target or min(source, target) < 0:
        raise ConfigError(f"source = {source}, target = {target}; expected two different classes")
    if not 0 < share <= 1:
        raise ConfigError(f"share = {share}; allowed: above 0 to 1")

    def adversary(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        def flip(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
            # A search takes longer than a round of training: once for the same records, whatever run they are in.
            name = hashlib.sha256(x.tobytes() + y.tobytes() + repr((search, source, target, share, seed)).encode()).digest()
            if name not in _FOUND:
                while len(_FOUND) >= _KEPT:
                    del _FOUND[next(iter(_FOUND))]
                _FOUND[name] = searched(x, y, search, source, target, share, seed)
            return x, _FOUND[name]

        def bend(task: Task) -> Task:
            return bent(task, flip, np.random.default_rng(seed))

        return Learner(honest, bend)

    return adversary
