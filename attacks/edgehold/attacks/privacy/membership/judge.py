"""Target and shadow models together: every attack's figures, and the same figures on a model that never saw a record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgehold.attacks.privacy.membership import scores
from edgehold.attacks.privacy.membership.population import inside, members
from edgehold.attacks.privacy.membership.roc import Rate, auc, rate_at
from edgehold.attacks.privacy.membership.study import Study
from edgehold.attacks.privacy.membership.train import Trained
from edgehold.core.vectors import Array

ATTACKS = {
    "loss": "loss threshold",
    "offline": "LiRA offline",
    "online": "LiRA online",
    "ranked": "RMIA offline",
}
"""Those that a study plays -> their names in the field. Without shadow models only the first."""
ALARMS = (0.01, 0.001)
GRID = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""False alarms at which a curve is kept."""
NOT_ENOUGH = "not enough non-members"


@dataclass(frozen=True, slots=True)
class Figures:
    """One attack on one model. rates: by rate of false alarms, None where there are not enough non-members.

    curve: hits at `GRID`, NaN where there are not enough.
    """

    auc: float
    rates: Mapping[float, Rate | None]
    curve: Sequence[float]


@dataclass(frozen=True, slots=True)
class Finding:
    """One seed of one subject. attacks, strangers: by name; strangers: of the model that never saw the pool.

    facts: of the target.
    """

    attacks: Mapping[str, Figures]
    strangers: Mapping[str, Figures]
    facts: Mapping[str, float]


def judge(study: Study, seed: int, target: Trained, stranger: Trained, shadows: Sequence[Trained]) -> Finding:
    """Figures of one target. shadows: all of the study's, in order."""
    learnt = members(study.pool, seed, "target")
    which = inside(study.pool, seed, len(shadows))
    return Finding(
        {name: figures(found, learnt) for name, found in scored(target, shadows, which).items()},
        {name: figures(found, learnt) for name, found in scored(stranger, shadows, which).items()},
        target.facts,
    )


def scored(target: Trained, shadows: Sequence[Trained], which: Array) -> dict[str, Array]:
    """Every attack's scores of the pool, (pool,) each."""
    found = {"loss": scores.loss(target.phi)}
    if not shadows:
        return found
    phi, public = np.array([one.phi for one in shadows]), np.array([one.public for one in shadows])
    return found | {
        "offline": scores.offline(target.phi, phi, which),
        "online": scores.online(target.phi, phi, which),
        "ranked": scores.ranked(target.phi, phi, which, target.public, public),
    }


def figures(found: Array, learnt: Array) -> Figures:
    """Of one attack's scores (n,), learnt (n,) bool."""
    yes, no = found[learnt], found[~learnt]
    curve = [rate.rate if (rate := rate_at(yes, no, alarm)) else float("nan") for alarm in GRID]
    return Figures(auc(yes, no), {alarm: rate_at(yes, no, alarm) for alarm in ALARMS}, curve)
