"""Search: what an attacker reaches who tries everything else first and then goes on from the worst. Knows records, victim and
held-out data; an upper estimate of the others.
"""

from collections.abc import Iterator

import numpy as np

from edgehold.attacks.poisoning.alfa import alfa
from edgehold.attacks.poisoning.simple import farthest, heaviest, nearest
from edgehold.attacks.poisoning.tilt import alfa_tilt
from edgehold.attacks.poisoning.victim import Classes, KernelVictim, flipped, signed

SWAPS = 100


def searched(
    labels: Classes, flips: int, victim: KernelVictim, held: Classes, rng: np.random.Generator, swaps: int = SWAPS
) -> Classes:
    """From the flips that cost most on the held-out labels, `swaps` times a tenth of them exchanged for others, kept wherever
    the held-out accuracy does not rise. held: labels of the victim's held-out records.
    """

    def right(found: Classes) -> float:
        return float(((victim.train(found).held > 0) == held).mean())

    least, best = min(((right(found), found) for found in _starts(labels, flips, victim, rng)), key=lambda judged: judged[0])
    some = max(1, flips // 10)
    for _ in range(swaps if 0 < flips < len(labels) else 0):
        out = rng.choice(np.flatnonzero(best != labels), some, replace=False)
        new = rng.choice(np.flatnonzero(best == labels), min(some, len(labels) - flips), replace=False)
        found = flipped(best, np.concatenate([out[: len(new)], new]))
        score = right(found)
        if score <= least:
            best, least = found, score
    return best


def _starts(labels: Classes, flips: int, victim: KernelVictim, rng: np.random.Generator) -> Iterator[Classes]:
    yield farthest(labels, flips, victim)
    yield nearest(labels, flips, victim)
    yield heaviest(labels, flips, victim, rng, 2.0)
    yield alfa(labels, flips, victim)
    yield alfa_tilt(labels, flips, victim, rng)
    margins = signed(labels) * victim.train(labels).scores
    for side in (0, 1):
        mine = np.flatnonzero(labels == side)
        if len(mine):
            # The kernel falls with the distance, so that the nearest have the largest.
            deepest = mine[np.argmax(margins[mine])]
            near = mine[np.argsort(-victim.kernel[deepest, mine], kind="stable")]
            others = np.setdiff1d(np.argsort(-margins, kind="stable"), near, assume_unique=True)
            yield flipped(labels, np.concatenate([near, others])[:flips])
