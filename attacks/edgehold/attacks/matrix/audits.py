"""Audits of privacy as cells of a matrix: membership of records, accuracy against epsilon, and the one-run bound."""

from pathlib import Path
from typing import Any

import msgspec

from edgehold.attacks.eval.cells import Cell
from edgehold.attacks.matrix.plan import Audits
from edgehold.attacks.privacy.membership.judge import GRID, Figures
from edgehold.attacks.privacy.membership.run import attack, best
from edgehold.attacks.privacy.membership.study import Study
from edgehold.attacks.privacy.membership.train import model_cell, train

MEMBERSHIP, CURVE, BOUND = "membership", "curve", "one_run"
"""Kinds of audit."""


def cells(audits: Audits, absent: bool) -> list[Cell]:
    """Every cell, the longest first. absent: the data set is not there; what needs none is played all the same."""
    found: list[Cell] = []
    for seed in range(audits.seeds):
        if not absent:
            found += [membership_cell(audits, subject, seed) for subject in audits.attacked]
            found += [curve_cell(audits, method, epsilon, seed) for method in audits.private for epsilon in audits.epsilons]
        found += [bound_cell(audits, method, epsilon, seed) for method in audits.private for epsilon in audits.one_run]
    kinds = (MEMBERSHIP, CURVE, BOUND)
    return sorted(found, key=lambda cell: kinds.index(cell["audit"]))


def membership_cell(audits: Audits, subject: str, seed: int) -> Cell:
    """One target with its control and its shadow models."""
    return {"audit": MEMBERSHIP, "subject": subject, "seed": seed, "study": _alone(audits, subject)}


def curve_cell(audits: Audits, method: str, epsilon: float, seed: int) -> Cell:
    """One model of that method at that epsilon; named by the first subject that has the method."""
    subject = audits.private[method]
    study = _alone(audits, subject) | {"shadows": 0}
    return {"audit": CURVE, "subject": subject, "epsilon": epsilon, "seed": seed, "study": study}


def bound_cell(audits: Audits, method: str, epsilon: float, seed: int) -> Cell:
    """One one-run audit."""
    delta = audits.subject[audits.private[method]].delta
    return {
        "audit": BOUND, "subject": method, "epsilon": epsilon, "delta": delta, "canaries": audits.canaries, "seed": seed
    }  # fmt: skip


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """Facts of an audit.

    membership: accuracy, accuracy_members, epsilon where private; by attack: NAME_auc, NAME_tpr_0.01, NAME_tpr_0.001 with
    _low and _high, and the same of the model that never saw the pool behind "stranger_"; roc_ALARM of the attack that is drawn.
    Rates for which there are not enough non-members are left out. curve: accuracy, accuracy_members, epsilon. one_run: claimed,
    epsilon_lower, correct, guesses, ceiling.
    """
    if cell["audit"] == BOUND:
        from edgehold.attacks.privacy import run as one_run  # loads what a report has no use for

        wish = one_run.Wish(cell["subject"], cell["epsilon"], cell["delta"], cell["canaries"], 1)
        found = one_run.run(wish)
        (verdict,) = found.verdicts
        return {
            "claimed": found.claimed, "ceiling": found.ceiling, "epsilon_lower": verdict.epsilon_lower,
            "correct": float(verdict.correct), "guesses": float(verdict.guesses),
        }  # fmt: skip
    study = msgspec.convert(cell["study"], Study)
    if cell["audit"] == CURVE:
        return dict(train(model_cell(study, cell["subject"], "target", 0, cell["seed"], cell["epsilon"]), data).facts)
    finding = attack(study, cell["subject"], cell["seed"], data)
    facts = dict(finding.facts)
    for name, one in finding.attacks.items():
        facts |= _flat(name, one)
    for name, one in finding.strangers.items():
        facts |= _flat(f"stranger_{name}", one)
    shown = finding.attacks[best(finding)].curve
    return facts | {f"roc_{alarm:g}": rate for alarm, rate in zip(GRID, shown, strict=True) if rate == rate}


def _flat(name: str, one: Figures) -> dict[str, float]:
    found = {f"{name}_auc": one.auc}
    for alarm, rate in one.rates.items():
        if rate is not None:
            where = f"{name}_tpr_{alarm:g}"
            found |= {where: rate.rate, f"{where}_low": rate.low, f"{where}_high": rate.high}
    return found


def _alone(audits: Audits, subject: str) -> dict[str, Any]:
    """The study as far as it determines a cell of one subject: other subjects and the number of seeds do not."""
    names = [name for name in Study.__struct_fields__ if name not in ("seeds", "subject")]
    found: dict[str, Any] = {name: msgspec.to_builtins(getattr(audits, name)) for name in names}
    return found | {"seeds": 1, "subject": {subject: msgspec.to_builtins(audits.subject[subject])}}
