"""Liars who know the whole round: what they see, what they send, and that the law holds for them too."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pytest

from edgehold.attacks.byzantine.alie import Alie
from edgehold.attacks.byzantine.ipm import Ipm
from edgehold.attacks.byzantine.optimised import Optimised
from edgehold.attacks.byzantine.plot import Plot
from edgehold.attacks.byzantine.sight import Attack
from edgehold.attacks.byzantine.sign_flip import SignFlip
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.errors import FlError, RejectedUpdate
from edgehold.core.plan import parse_plan
from edgehold.core.vectors import Vector
from edgehold.defenses import registry
from edgehold.server.engine import Conspiracy, Result, View, run

ZERO = Vector.of(np.zeros(2, np.float32))
LIARS = frozenset({"c0", "c3"})
STEPS = {"c0": 9.0, "c1": 1.0, "c2": 3.0, "c3": 9.0, "c4": 5.0}  # honest ones: 1, 3, 5


def go(conspiracy: Conspiracy | None, method: str = "", cohort: str = "size = 5\nquorum = 5", **how: Any) -> Result:
    text = f"""
        [run]
        name = "plot"
        rounds = 1
        task = "t"
        [cohort]
        {cohort}
        [weights]
        by = "equal"
        [method]
        name = "fedavg"
        {method}
    """
    tasks = {client: SyntheticTask(2, step, 1) for client, step in STEPS.items()}
    return run(*parse_plan(text, registry.method), tasks, initial=ZERO, conspiracy=conspiracy, **how)


@pytest.mark.parametrize(
    ("attack", "sum_of_lies"),
    [
        (SignFlip(2.0), 2 * -18.0),
        (Ipm(0.5), 2 * -1.5),  # the honest mean is 3
        (Alie(1.5, -1), 2 * (3 - 1.5 * 2)),  # and their sd, dividing by two, is 2
        (Alie(1.5, 1), 2 * (3 + 1.5 * 2)),
    ],
)
def test_lies_by_hand(attack: Attack, sum_of_lies: float) -> None:
    assert go(Plot(LIARS, attack)).model.whole().tolist() == [np.float32((9 + sum_of_lies) / 5)] * 2


@dataclass
class Spy:
    """Looks at the round and sends what it is told to."""

    tell: Callable[[View], Mapping[str, Any]]
    members: frozenset[str] = LIARS
    views: list[View] = field(default_factory=list)

    def lie(self, view: View) -> Mapping[str, Any]:
        self.views.append(view)
        return self.tell(view)


def test_a_conspiracy_sees_the_round_and_its_outcome() -> None:
    def tell(view: View) -> Mapping[str, Any]:
        assert {c: u.delta.whole().tolist() for c, u in view.honest.items()} == {c: [STEPS[c]] * 2 for c in ("c1", "c2", "c4")}
        assert {c: u.delta.whole()[0] for c, u in view.own.items()} == {"c0": 9.0, "c3": 9.0}
        assert view.model.whole().tolist() == [0.0, 0.0]
        assert view.order.model.whole().tolist() == [0.0, 0.0]
        lies = {"c0": replace(view.own["c0"], delta=Vector.of(np.full(2, 96, np.float32)))}
        assert view.outcome(lies).whole().tolist() == [26.25] * 2  # (96 + 9) / 4: c3 stays away
        bad = {"c0": replace(view.own["c0"], delta=Vector.of(np.full(2, np.inf, np.float32)))}
        with pytest.raises(RejectedUpdate):
            view.outcome(bad)
        return {}

    spy = Spy(tell)
    assert go(spy).digest == go(None).digest  # whoever is left out sends the truth
    assert len(spy.views) == 1


def test_an_outcome_knows_the_norm_of_the_lie_not_of_the_truth() -> None:
    # With clipping to 1 a lie of any size counts as 1; were the honest update's norm used, it would count as more.
    def tell(view: View) -> Mapping[str, Any]:
        lies = {c: replace(u, delta=Vector.of(np.array([500, 0], np.float32))) for c, u in view.own.items()}
        assert view.outcome(lies).whole()[0] == pytest.approx((2 * 1.0 + 3 * 0.5**0.5) / 5)
        return lies

    assert go(Spy(tell), "clip_norm = 1.0").model.whole()[0] == pytest.approx((2 * 1.0 + 3 * 0.5**0.5) / 5)


def test_lies_that_break_the_law_are_refused_and_spares_stand_in() -> None:
    def tell(view: View) -> Mapping[str, Any]:
        return {c: replace(u, delta=Vector.of(np.full(2, np.nan, np.float32))) for c, u in view.own.items()}

    found = go(Spy(tell), cohort="size = 5\nquorum = 3")
    assert found.rejected == {"not_finite": 2}
    assert found.model.whole().tolist() == [3.0, 3.0]
    with pytest.raises(FlError, match="no clients of this run"):
        go(Spy(tell, frozenset({"stranger"})))


@pytest.mark.parametrize("rule", ["average", "median", "trimmed_mean"])
@pytest.mark.parametrize("kind", ["ipm", "alie"])
def test_a_searched_factor_does_at_least_as_much_harm_as_any_fixed_one(kind: Any, rule: str) -> None:
    method = f'rule = "{rule}"\nliars = {0 if rule == "average" else 2}'

    def harm(attack: Attack) -> float:
        return float(np.linalg.norm(go(Plot(LIARS, attack), method).model.whole().astype(np.float64) - 3.0))

    worst = harm(Optimised(kind))
    signs: tuple[Literal[-1, 1], ...] = (-1, 1)
    alie: list[Attack] = [Alie(z, sign) for z in (0.5, 1, 5) for sign in signs]
    fixed = alie if kind == "alie" else [Ipm(tau) for tau in (0.1, 0.5, 2.0, 20.0)]
    assert worst >= max(map(harm, fixed)) - 1e-6
    assert worst > 0


def test_an_even_search_tries_both_signs() -> None:
    # The median of 1, 3, 5 and two lies: on either side it can be moved to 1 or to 5, as far from 3.
    found = go(Plot(LIARS, Alie(5.0, 0)), 'rule = "median"\nliars = 2').model.whole()
    assert abs(found[0] - 3.0) == pytest.approx(2.0)
