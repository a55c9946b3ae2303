"""Flips without any search: at random, of everything, and by what one machine trained on the clean labels says."""

import numpy as np

from edgehold.attacks.poisoning.victim import Classes, Victim, flipped, signed


def random_flips(labels: Classes, flips: int, rng: np.random.Generator, classes: int = 2) -> Classes:
    """That many labels, each to another class drawn at random. Any number of classes. Knows nothing."""
    which = rng.choice(len(labels), flips, replace=False)
    found = labels.copy()
    found[which] = (labels[which] + rng.integers(1, classes, flips)) % classes
    return found


def every_label(labels: Classes, classes: int = 2) -> Classes:
    """a becomes classes - 1 - a, for all records: what a device does that turns its data around. Any number of classes."""
    return classes - 1 - labels


def heaviest(labels: Classes, flips: int, victim: Victim, rng: np.random.Generator, pool: float = 1.0) -> Classes:
    """Of the records with the largest dual weights, `pool` times as many as flips, some at random. Knows records and victim.

    Equal weights are ordered at random. pool = 2 is what the attacker in FLORAL's game does.
    Source: Bal, Cevher and Muehlebach 2025, arXiv:2502.17121, and the authors' code.
    """
    mixed = rng.permutation(len(labels))
    order = mixed[np.argsort(-victim.train(labels).duals[mixed], kind="stable")]
    return flipped(labels, rng.choice(order[: max(flips, round(pool * flips))], flips, replace=False))


def farthest(labels: Classes, flips: int, victim: Victim) -> Classes:
    """The records with the largest margins: confident ones, deep inside their class.

    Source: Paudice, Munoz-Gonzalez and Lupu 2018, "Label sanitization against label flipping poisoning attacks" (as a start).
    """
    return flipped(labels, far_first(labels, victim)[:flips])


def nearest(labels: Classes, flips: int, victim: Victim) -> Classes:
    """The records nearest the decision boundary, whichever side of it. Source: Xiao et al. 2015, as a baseline."""
    return flipped(labels, np.argsort(np.abs(victim.train(labels).scores), kind="stable")[:flips])


def far_first(labels: Classes, victim: Victim) -> Classes:
    """Records by falling margin of the machine trained on the clean labels."""
    return np.argsort(-signed(labels) * victim.train(labels).scores, kind="stable")
