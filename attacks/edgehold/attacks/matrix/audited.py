"""Kept cells of audits as rows of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgehold.attacks.eval.cells import Cell, key
from edgehold.attacks.matrix.audits import bound_cell, curve_cell, membership_cell
from edgehold.attacks.matrix.plan import Audits
from edgehold.attacks.matrix.play import Outcome
from edgehold.attacks.matrix.verdict import Estimate, estimate
from edgehold.attacks.privacy.membership.judge import ATTACKS, GRID

Facts = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Share:
    """Members found at a rate of false alarms: mean over runs; low, high: from the lowest to the highest exact interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Membership:
    """One attack on one subject. epsilon: the largest that a run was charged, None where nothing is promised.

    rates, None where a run had not enough non-members. stranger: AUC on the model that never saw the pool.
    """

    subject: str
    method: str
    attack: str
    epsilon: float | None
    accuracy: Estimate
    learnt: Estimate
    auc: Estimate
    at_one: Share | None
    at_tenth: Share | None
    stranger: Estimate


@dataclass(frozen=True, slots=True)
class Bound:
    """One-run audits of one method at one claim. lower: the bound, over runs; ceiling: what it is if every guess is right.

    above: runs whose bound is above the claim.
    """

    method: str
    claimed: float
    delta: float
    lower: Estimate
    largest: float
    ceiling: float
    runs: int
    above: int


@dataclass(frozen=True, slots=True)
class Point:
    """Accuracy of a method's model at an epsilon."""

    method: str
    epsilon: float
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class Audited:
    """All rows. curves: subject -> runs of members found at `GRID`, of the attack that is drawn."""

    membership: Sequence[Membership] = ()
    bounds: Sequence[Bound] = ()
    points: Sequence[Point] = ()
    curves: Mapping[str, Sequence[Sequence[float]]] | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.membership or self.bounds or self.points)


def audited(audits: Audits | None, outcomes: Mapping[str, Outcome]) -> Audited:
    """Rows of what is there."""
    if audits is None:
        return Audited()

    def found(cells: Sequence[Cell]) -> Facts:
        return [one.facts for cell in cells if (one := outcomes.get(key(cell))) and one.facts]

    seeds = range(audits.seeds)
    members: list[Membership] = []
    curves = {}
    for subject in audits.attacked:
        here = found([membership_cell(audits, subject, seed) for seed in seeds])
        if here:
            members += [_membership(audits, subject, name, here) for name in ATTACKS if f"{name}_auc" in here[0]]
            curves[subject] = [[facts.get(f"roc_{alarm:g}", float("nan")) for alarm in GRID] for facts in here]
    bounds, points = [], []
    for method in audits.private:
        for epsilon in sorted(audits.one_run):
            here = found([bound_cell(audits, method, epsilon, seed) for seed in seeds])
            if here:
                bounds.append(_bound(method, audits.subject[audits.private[method]].delta, here))
        for epsilon in sorted(audits.epsilons):
            here = found([curve_cell(audits, method, epsilon, seed) for seed in seeds])
            if here:
                points.append(Point(method, max(facts["epsilon"] for facts in here), _mean(here, "accuracy")))
    return Audited(members, bounds, points, curves)


def _membership(audits: Audits, subject: str, name: str, here: Facts) -> Membership:
    spent = [facts["epsilon"] for facts in here if "epsilon" in facts]
    return Membership(
        subject, audits.subject[subject].method, name, max(spent) if spent else None, _mean(here, "accuracy"),
        _mean(here, "accuracy_members"), _mean(here, f"{name}_auc"), _share(here, f"{name}_tpr_0.01"),
        _share(here, f"{name}_tpr_0.001"), _mean(here, f"stranger_{name}_auc"),
    )  # fmt: skip


def _bound(method: str, delta: float, here: Facts) -> Bound:
    claimed = here[0]["claimed"]
    lower = [facts["epsilon_lower"] for facts in here]
    above = sum(one > claimed for one in lower)
    return Bound(method, claimed, delta, estimate(np.array(lower)), max(lower), here[0]["ceiling"], len(here), above)


def _mean(here: Facts, name: str) -> Estimate:
    return estimate(np.array([facts[name] for facts in here]))


def _share(here: Facts, name: str) -> Share | None:
    if not all(name in facts for facts in here):
        return None
    mean = float(np.mean([facts[name] for facts in here]))
    return Share(mean, min(facts[f"{name}_low"] for facts in here), max(facts[f"{name}_high"] for facts in here))
