"""Local training of a head: mini-batches of soft-max regression on frozen features, by Adam, in numpy."""

from dataclasses import replace

import numpy as np

from edgehold.core.tables import Records
from edgehold.core.vectors import FloatArray
from edgehold.defenses.bristle.state import Local, Training

_MEAN, _SQUARE, _SMALL = 0.9, 0.999, 1e-8
"""Adam's (Kingma and Ba 2015)."""


def trained(local: Local, data: Records, how: Training, rng: np.random.Generator) -> Local:
    """The local state after `how.steps` mini-batches: columns of classes that the device has are kept, the others only drift in
    `trained` (soft-max with absent classes pushes those down: CWR, Lomonaco and Maltoni 2017).
    """
    head, first, second = (np.array(one, dtype=np.float64) for one in (local.kept, local.first, local.second))
    steps, order = local.steps, np.zeros(0, dtype=np.int64)
    for _ in range(how.steps):
        if not len(order):
            order = rng.permutation(len(data))
        rows, order = order[: how.batch_size], order[how.batch_size :]
        x = data.x[rows].astype(np.float64)
        scores = x @ head
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        odds[np.arange(len(rows)), data.y[rows]] -= 1
        slope = x.T @ odds / len(rows) + how.weight_decay * head
        steps += 1
        first = _MEAN * first + (1 - _MEAN) * slope
        second = _SQUARE * second + (1 - _SQUARE) * slope**2
        head -= how.learning_rate * (first / (1 - _MEAN**steps)) / (np.sqrt(second / (1 - _SQUARE**steps)) + _SMALL)
    drifted, kept = _narrow(head), local.kept.copy()
    own = np.unique(data.y) if how.keep == "familiar" else slice(None)
    kept[:, own] = drifted[:, own]
    return replace(local, kept=kept, trained=drifted, first=_narrow(first), second=_narrow(second), steps=steps)


def _narrow(values: np.typing.NDArray[np.float64]) -> FloatArray:
    # Training that blew up gives infinities here; the law refuses them at the other end, where it is counted.
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
