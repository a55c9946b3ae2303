"""What three runs prove together, and what they do not."""

from pathlib import Path

import pytest

from edgehold.attacks.demo.outcome import Outcome
from edgehold.attacks.demo.plan import SCENARIOS
from edgehold.attacks.multinode.verdict import Verdict, judge


def played(seed: int, *accuracies: float) -> list[Outcome]:
    """Runs of one seed, clean first."""
    return [Outcome(one, seed, [score], 1.0, 1, Path()) for one, score in zip(SCENARIOS, accuracies, strict=False)]


def judged(*outcomes: Outcome) -> Verdict:
    verdict = judge(outcomes)
    assert verdict is not None
    return verdict


def test_what_the_defence_gives_back_is_a_share_of_what_the_attack_took() -> None:
    # 0.9 to 0.5 takes 0.4; the defence is at 0.8, 0.3 of those 0.4 higher.
    one = judged(*played(0, 0.9, 0.5, 0.8))
    assert one.taken == pytest.approx((0.4,))
    assert one.kept == pytest.approx((0.75,))
    assert one.won
    assert one.text() == "The attack takes 0.400 of accuracy undefended; the defence gives 75.0% of it back."


def test_an_attack_that_loses_once_proves_nothing() -> None:
    two = judged(*played(0, 0.9, 0.1, 0.9), *played(1, 0.9, 0.85, 0.9))
    assert not two.won
    assert "nothing is proved about the defence" in two.text()


def test_seeds_are_told_as_mean_and_spread() -> None:
    text = judged(*played(0, 0.9, 0.1, 0.9), *played(1, 0.9, 0.3, 0.9)).text()
    assert "takes 0.700 of accuracy undefended (0.600 to 0.800 over 2 seeds)" in text


def test_an_attack_that_helps_is_not_divided_by() -> None:
    assert judged(*played(0, 0.8, 0.9, 0.8)).kept == (0.0,)
    assert judged(*played(0, 0.8, 0.8, 0.8)).kept == (0.0,)


def test_there_is_no_verdict_without_all_three_runs() -> None:
    assert judge(played(0, 0.9, 0.1)) is None
    assert judge([*played(0, 0.9, 0.1, 0.9), *played(1, 0.9)]) is None
    assert judge([]) is None
