"""Where a support vector machine's dual weights may lie: 0 <= lam <= C and labels' lam = 0. The nearest such point, exactly."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

_STEPS = 1000
"""Steps of the released projection."""


def project(point: Array, labels: Array, cost: float) -> Array:
    """The lam nearest to `point` with 0 <= lam <= cost and labels' lam = 0; both (n,), labels -1 or +1.

    lam_i = clip(z_i - mu y_i, 0, C), where mu makes the sum vanish. With u = y z that sum is h(mu) = sum clip(u_i - mu, low_i,
    high_i): it falls from C n_plus to -C n_minus and bends at 2n known places, so sorting them finds mu without any iteration.
    A class without records leaves 0 as the only point.

    Source: Bal, Cevher and Muehlebach 2025, arXiv:2502.17121. Departure: exact, where theirs is a fixed point that may stop
    outside (`released`).
    """
    plus = labels > 0
    if plus.all() or not plus.any():
        return np.zeros(len(point))
    u = labels * point
    low, high = np.where(plus, 0.0, -cost), np.where(plus, cost, 0.0)
    # Each term starts to fall at u - high and is at its lower end from u - low on.
    bends = np.concatenate([u - high, u - low])
    order = np.argsort(bends, kind="stable")
    bends = bends[order]
    falling = np.cumsum(np.where(order < len(u), 1.0, -1.0))
    sums = high.sum() - np.concatenate([[0.0], np.cumsum(falling[:-1] * np.diff(bends))])
    at = max(0, int(np.searchsorted(-sums, 0.0, side="right")) - 1)  # the last bend at which the sum is not yet below 0
    mu = bends[at] + (sums[at] / falling[at] if falling[at] > 0.5 else 0.0)
    # The sums above round; once more with the terms that turned out to be between their ends.
    inside = (u - mu > low) & (u - mu < high)
    if inside.any():
        mu = (u[inside].sum() + high[u - mu >= high].sum() + low[u - mu <= low].sum()) / inside.sum()
    found = np.clip(u - mu, low, high)
    # What rounding of large numbers leaves is spread over those terms again.
    inside = (found > low) & (found < high)
    if inside.any():
        found[inside] -= found.sum() / inside.sum()
    return np.asarray(np.clip(labels * found, 0.0, cost))


def released(point: Array, labels: Array, cost: float) -> Array:
    """As the authors' released code does it: at most 1000 steps of a fixed point for mu, then a clip; labels' lam may be left
    different from 0.
    """
    mu = 0.0
    for _ in range(_STEPS):
        lam = point - mu * labels
        full, inside = lam >= cost, (lam > 0) & (lam < cost)
        held = max(2 * int(inside.sum()), 1)
        pull = cost * labels[full].sum() + (point[inside] * labels[inside]).sum()
        after = (1 - inside.sum() / held) * mu + pull / held
        if after == mu:
            break
        mu = after
    return np.asarray(np.clip(point - mu * labels, 0.0, cost))
