"""Verdicts against cases worked out by hand."""

import numpy as np
import pytest

from edgehold.attacks.matrix.verdict import DRAWS, compare, estimate, holm, resamples, verdict, worst_of
from edgehold.core.errors import ConfigError

PLACE = ("digits", 0.2, "krum", "alie")


def test_all_resamples_of_few_seeds_are_enumerated() -> None:
    assert sorted(map(tuple, resamples(2).tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert resamples(5).shape == (3125, 5)
    assert resamples(6).shape == (DRAWS, 6)
    assert np.array_equal(resamples(6), resamples(6))


def test_two_seeds_by_hand() -> None:
    # Means of 00, 01, 10, 11: 0, 1/2, 1/2, 1.
    one = estimate(np.array([0.0, 1.0]))
    assert (one.mean, one.low, one.high, one.seeds) == (0.5, 0.0, 1.0, 2)


def test_an_interval_leaves_out_what_is_rarer_than_its_level() -> None:
    # Four draws hit the 8 k times, mean 2k: P(k <= 2) = 0.949, P(k <= 3) = 0.996. So 0.975 lies at k = 3, mean 6, not at 8.
    one = estimate(np.array([0.0, 0.0, 0.0, 8.0]))
    assert (one.mean, one.low, one.high) == (2.0, 0.0, 6.0)


def test_the_choice_of_the_worst_attack_is_drawn_again() -> None:
    # Means 0.4 and 0.3: worst 0.3. Seed 0 twice: min(0.2, 0.5); seed 1 twice: min(0.6, 0.1), which is the other attack.
    one = estimate(np.array([[0.2, 0.6], [0.5, 0.1]]), worst_of)
    assert (one.mean, one.low, one.high) == pytest.approx((0.3, 0.1, 0.3))


@pytest.mark.parametrize(
    ("value", "baseline", "word", "works"),
    [
        ([0.90, 0.88], [0.30, 0.20], "holds", True),  # 2 points lost of 0.91
        ([0.70, 0.72], [0.30, 0.20], "partly", True),
        ([0.40, 0.18], [0.30, 0.20], "falls", True),  # better on one seed, worse on the other
        ([0.90, 0.88], [0.90, 0.88], "no effect", False),  # the attack costs the average 2 points, the bar is 5
        ([0.90, 0.88], [0.60, 0.95], "no effect", False),  # 13.5 on average, but on one seed it helped
    ],
)
def test_words_by_hand(value: list[float], baseline: list[float], word: str, works: bool) -> None:
    told = verdict(
        PLACE, "accuracy", 0.05, value=dict(enumerate(value)), baseline=dict(enumerate(baseline)), ceiling={0: 0.92, 1: 0.90},
        clean={0: 0.9, 1: 0.9},
    )  # fmt: skip
    assert (told.word, told.works) == (word, works)
    assert told.credited == (word in ("holds", "partly"))


def test_figures_by_hand() -> None:
    told = verdict(
        PLACE,
        "accuracy",
        0.05,
        value={0: 0.7, 1: 0.8},
        baseline={0: 0.2, 1: 0.4},
        ceiling={0: 0.9, 1: 0.9},
        clean={0: 0.8, 1: 0.9},
    )
    assert told.value is not None
    assert told.baseline is not None
    assert told.ceiling is not None
    assert told.clean is not None
    means = [one.mean for one in (told.value, told.baseline, told.ceiling, told.clean)]
    assert means == pytest.approx([0.75, 0.3, 0.9, 0.85])
    assert told.fall is not None
    assert told.gain is not None
    assert told.loss is not None
    # Differences seed by seed: fall 0.7, 0.5; gain 0.5, 0.4; loss 0.2, 0.1.
    assert (told.fall.low, told.fall.mean, told.fall.high) == pytest.approx((0.5, 0.6, 0.7))
    assert (told.gain.low, told.gain.mean, told.gain.high) == pytest.approx((0.4, 0.45, 0.5))
    assert (told.loss.low, told.loss.mean, told.loss.high) == pytest.approx((0.1, 0.15, 0.2))


def test_an_attack_that_the_average_withstands_may_hurt_a_defence() -> None:
    level = {0: 0.92, 1: 0.90}
    for value, hurt in (({0: 0.6, 1: 0.7}, True), ({0: 0.88, 1: 0.86}, False), ({0: 0.6, 1: 0.95}, False)):
        told = verdict(PLACE, "accuracy", 0.05, value=value, baseline=level, ceiling=level, clean={0: 0.9, 1: 0.9})
        assert (told.word, told.credited, told.hurt) == ("no effect", False, hurt)


def test_only_seeds_that_all_have_are_compared() -> None:
    scores = {0: 0.9, 1: 0.9, 2: 0.9}
    told = verdict(PLACE, "accuracy", 0.05, value={1: 0.8}, baseline={0: 0.1, 1: 0.3, 2: 0.1}, ceiling=scores, clean=scores)
    assert told.baseline is not None
    assert (told.baseline.mean, told.baseline.seeds) == (0.3, 1)
    assert told.fall is not None
    assert told.fall.seeds == 3  # the controls are all there: whether the attack works is judged on all of them


def test_without_runs_nothing_is_said() -> None:
    told = verdict(PLACE, "accuracy", 0.05, value={}, baseline={0: 0.1}, ceiling={0: 0.9}, clean={0: 0.9})
    assert (told.word, told.value, told.credited) == ("failed", None, False)
    assert verdict(PLACE, "accuracy", 0.05, value={0: 0.9}, baseline={}, ceiling={0: 0.9}, clean={}).word == "failed"


def test_a_paired_test_by_hand() -> None:
    # Three positive differences: of the eight ways to sign them only all + and all - are as far from 0: p = 2/8.
    told = compare("krum", "average", 2, [0.5, 0.7, 0.9], [0.4, 0.5, 0.6])
    assert told.p == pytest.approx(0.25)
    assert told.least == 0.25
    assert (told.difference.mean, told.difference.low, told.difference.high) == pytest.approx((0.2, 0.1, 0.3))
    # Differences 0.1, 0.2, -0.3: sum 0; every way is as far from 0 as that.
    assert compare("krum", "average", 2, [0.5, 0.7, 0.6], [0.4, 0.5, 0.9]).p == pytest.approx(1.0)


def test_a_test_without_differences_or_pairs() -> None:
    assert compare("krum", "average", 1, [0.5, 0.5], [0.5, 0.5]).p == 1.0
    with pytest.raises(ConfigError, match="2 and 1 scores"):
        compare("krum", "average", 1, [0.5, 0.5], [0.5])


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1 are 0.03, 0.06, 0.04; never falling again: 0.03, 0.06, 0.06.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
