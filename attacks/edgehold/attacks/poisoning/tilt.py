"""ALFA-tilt: flips that turn the machine's hyperplane as far as they can. Knows records and victim."""

from math import sqrt

import numpy as np

from edgehold.attacks.poisoning.victim import Array, Classes, KernelVictim, flipped, signed

TRIES = 30
PULL = 0.1
"""Weight of either margin beside the dual weights."""


def alfa_tilt(labels: Classes, flips: int, victim: KernelVictim, rng: np.random.Generator, tries: int = TRIES) -> Classes:
    """Of `tries` random directions the one after which the new hyperplane stands steepest to the clean one.

    With a the clean machine's dual weights, s its margins and r those of a random decision function (dual weights uniform
    in [0, C], bias in [-C, C]), both divided by their largest size: the flips with the least a / C - s / 10 - r / 10 are those
    that carried no weight and lie deep on the right side of both. The cosine is taken in the space of the kernel.

    Source: Xiao, Biggio, Nelson, Xiao, Eckert and Roli 2015, "Support vector machines under adversarial label contamination".
    """
    y, cost, kernel = signed(labels), victim.cost, victim.kernel
    clean = victim.train(labels)
    steady = clean.duals / cost - PULL * _scaled(y * clean.scores)
    normal = clean.duals * y
    best, least = labels, np.inf
    for _ in range(tries):
        duals, bias = rng.uniform(0, cost, len(y)), rng.uniform(-cost, cost)
        order = steady - PULL * _scaled(y * (kernel @ (duals * y) + bias))
        found = flipped(labels, np.argsort(order, kind="stable")[:flips])
        turned = _cosine(normal, victim.train(found).duals * signed(found), kernel)
        if turned < least:
            best, least = found, turned
    return best


def _scaled(margins: Array) -> Array:
    most = float(np.abs(margins).max())
    return margins / most if most else margins


def _cosine(one: Array, other: Array, kernel: Array) -> float:
    """Of two normals, each by its coefficients; 1 where one of them is nothing, as then nothing was turned."""
    norms = sqrt(max(float(one @ kernel @ one), 0.0) * max(float(other @ kernel @ other), 0.0))
    return float(one @ kernel @ other) / norms if norms else 1.0
