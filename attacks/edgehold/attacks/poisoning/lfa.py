"""LFA: one flip after the other, always the one that costs most on held-out records. Knows records, victim and held-out
data.
"""

import numpy as np

from edgehold.attacks.poisoning.simple import far_first
from edgehold.attacks.poisoning.victim import Classes, Victim, flipped

CANDIDATES = 64


def lfa(labels: Classes, flips: int, victim: Victim, held: Classes, candidates: int = CANDIDATES) -> Classes:
    """`flips` times: of the next `candidates` records that are not flipped yet, in far-first order, the one whose flip raises
    the error on the held-out labels most; equals by order. held: labels of the victim's held-out records.

    Source: Paudice, Munoz-Gonzalez and Lupu 2018. Departure: theirs tries every record at each step.
    """
    waiting = far_first(labels, victim).tolist()
    found = labels
    for _ in range(flips):
        tried = waiting[:candidates]
        errors = [float(((victim.train(flipped(found, one)).held > 0) != held).mean()) for one in tried]
        chosen = tried[int(np.argmax(errors))]
        waiting.remove(chosen)
        found = flipped(found, chosen)
    return found
