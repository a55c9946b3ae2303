"""ALFA: flips that a machine trained on them fits well and the clean machine does not. Knows records and victim."""

import numpy as np

from edgehold.attacks.poisoning.victim import Array, Classes, Victim, flipped, signed

ROUNDS = 20


def alfa(labels: Classes, flips: int, victim: Victim) -> Classes:
    """With xi, xi' the clean machine's hinge losses on labels and flipped labels, e, e' the poisoned machine's (0 at first):
    flip the largest gains (e - xi) - (e' - xi'), train anew, until a set of flips comes back or after 20 rounds; the set with
    the largest mean of e - xi is kept. With flips of equal cost this is the optimum of the source's linear programme.

    Source: Xiao, Xiao and Eckert 2012, "Adversarial label flips attack on support vector machines".
    """
    y = signed(labels)
    clean = victim.train(labels).scores
    before, turned = _hinge(y * clean), _hinge(-y * clean)
    now, now_turned = np.zeros(len(y)), np.zeros(len(y))
    best, most, seen = labels, -np.inf, set[bytes]()
    for _ in range(ROUNDS):
        gains = (now - before) - (now_turned - turned)
        which = np.sort(np.argsort(-gains, kind="stable")[:flips])
        if which.tobytes() in seen:
            break
        seen.add(which.tobytes())
        found = flipped(labels, which)
        scores = victim.train(found).scores
        now, now_turned = _hinge(y * scores), _hinge(-y * scores)
        harm = float((now - before).mean())
        if harm > most:
            best, most = found, harm
    return best


def _hinge(margins: Array) -> Array:
    return np.maximum(0.0, 1 - margins)
