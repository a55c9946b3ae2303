"""Which labels a batch had, from the gradient of the last layer.

For cross-entropy the bias gradient of class c is the mean over records of p_c - [y = c]: negative for labels that are there,
and with p known their counts. Sources: Zhao et al. 2020, arXiv:2001.02610 (iDLG); Ma et al. 2023 (iLRG). Departure: p is
estimated from public records at the same weights, not from class-wise embeddings.
"""

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array


def single(weight: Array, bias: Array | None = None) -> int:
    """The label behind the gradient of one record: the only class pushed up. weight: (classes, inputs); bias: (classes,)."""
    pushes = np.asarray(weight, np.float64).sum(axis=1) if bias is None else np.asarray(bias, np.float64)
    return int(np.argmin(pushes))


def counts(bias: Array, records: int, probabilities: Array) -> Array:
    """(classes,) int: how often each label was there, summing to `records`.

    bias: gradient of the last bias; probabilities: (classes,) mean confidence, as far as it is known. Count c is
    records * (p_c - g_c), rounded by largest remainders.
    """
    if records < 1:
        raise ConfigError(f"records = {records}; at least 1")
    wanted = np.clip(records * (np.asarray(probabilities, np.float64) - np.asarray(bias, np.float64)), 0, None)
    wanted = np.nan_to_num(wanted, nan=0.0, posinf=float(records))
    total = float(wanted.sum())
    wanted = wanted * (records / total) if total > 0 else np.full(len(wanted), records / len(wanted))
    found = np.floor(wanted).astype(int)
    for at in np.argsort(-(wanted - found), kind="stable")[: records - int(found.sum())]:
        found[at] += 1
    return found


def spread(found: Array) -> Array:
    """(records,) the labels that such counts stand for, in ascending order."""
    return np.repeat(np.arange(len(found)), found)
