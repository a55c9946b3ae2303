"""The integrator: own head and peers' heads, judged class by class on the device's own test records, become one.

Steps 1 to 6 of the method's `integrate`, in float64. Source: the authors' code, `Bristle.kt` (F1 version of May 2021).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgehold.core.vectors import Array

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def f1_per_class(features: Array, labels: Ints, heads: Array, familiar: Ints) -> Floats:
    """F1 of each head on each familiar class, (heads, familiar); 0 without a true positive.

    features: (n, d) and labels: (n,) of the own test records; heads: (heads, d, C). The arg-max is over all C classes, so that
    a head that answers with a foreign class is wrong.
    """
    said = np.argmax(features @ heads, axis=2)
    right = said == labels
    found = np.empty((len(heads), len(familiar)))
    for place, one in enumerate(familiar):
        hits = (right & (labels == one)).sum(axis=1)
        found[:, place] = 2 * hits / np.maximum(1, (said == one).sum(axis=1) + (labels == one).sum())
    return found


def score(own: Array, peer: Array) -> Floats:
    """s: what a peer's F1 is worth beside the own one. d^(3 + own) for a gain, -d^(4 + own) for a loss, d = 10 |own - peer|."""
    own, peer = np.asarray(own, dtype=np.float64), np.asarray(peer, dtype=np.float64)
    apart = 10 * np.abs(own - peer)
    return np.asarray(np.where(peer > own, apart ** (3 + own), -(apart ** (4 + own))))


def weight(scores: Array, certainty: Array) -> Floats:
    """w: 0 to 6 times the certainty; an equal performance (s = 0) has 1, and nothing is left below s = 100 ln(2/3)."""
    # Far out the sigmoid is 0 or 1 anyway; cut, so that it does not overflow.
    flat = 1 / (1 + np.exp(-np.clip(np.asarray(scores, dtype=np.float64) / 100, -100, 100)))
    return np.asarray(np.maximum(0.0, 10 * flat - 4) * certainty)


@dataclass(frozen=True, slots=True, eq=False)
class Trust:
    """Weights of the heads of peers, in their order. columns: (peers, familiar), 0 where the class was not selected;
    foreign: (peers,), for every foreign column.
    """

    columns: Floats
    foreign: Floats


def trust(own: Floats, peers: Floats, shared: int) -> Trust:
    """own: (familiar,), peers: (peers, familiar) F1. shared: classes on which a peer is judged, its best ones (equals by
    place); all of them where a device has no more.
    """
    best = np.argsort(-peers, axis=1, kind="stable")[:, :shared]
    found = np.take_along_axis(peers, best, axis=1)
    certainty = np.maximum(0.0, found.mean(axis=1) - found.std(axis=1))
    scores = score(own[best], found)
    columns = np.zeros_like(peers)
    np.put_along_axis(columns, best, weight(scores, certainty[:, None]), axis=1)
    return Trust(columns, weight(scores.sum(axis=1), certainty))


def mix(base: Array, heads: Array, given: Trust, familiar: Ints) -> Floats:
    """The weighted means, column by column, before centring. base: (d, C), own weight 1; heads: (peers, d, C)."""
    weights = np.repeat(given.foreign[:, None], base.shape[1], axis=1)
    weights[:, familiar] = given.columns
    total, out = np.ones(base.shape[1]), np.array(base, dtype=np.float64)
    for one, head in zip(weights, heads, strict=True):
        used = one > 0  # 0 x a column is not nothing: it turns -0 into 0
        out[:, used] += one[used] * head[:, used]
        total += one
    used = total > 1
    out[:, used] /= total[used]
    return out


def centred(head: Array) -> Floats:
    """The head, every column less its mean."""
    return np.asarray(head - head.mean(axis=0))


def integrate(base: Array, heads: Array, features: Array, labels: Ints, familiar: Ints, shared: int) -> Floats:
    """The head after reading peers, (d, C), not centred yet. Arguments as above."""
    every = np.concatenate([np.asarray(base, dtype=np.float64)[None], np.asarray(heads, dtype=np.float64)])
    found = f1_per_class(features, labels, every, familiar)
    return mix(every[0], every[1:], trust(found[0], found[1:], shared), familiar)
