"""The audit in one run: numbers by hand and of the paper, and releases whose true epsilon is known."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom
from tests.support.fixed_noise import FixedNoise

from edgehold.attacks.privacy.audit import Verdict, audit
from edgehold.attacks.privacy.bound import epsilon_lower_bound, likelihood
from edgehold.core.errors import ConfigError, NotFinite, WrongShape
from edgehold.core.privacy import gaussian, rounded
from edgehold.core.rng import stream
from edgehold.core.vectors import Array

RUNS = 200
MISLED = int(binom.isf(1e-6, RUNS, 0.05))
"""Of 200 sound audits at 95 % at most 10 mislead on average; more than these do with a chance below 1e-6."""


def coins(m: int, rng: np.random.Generator) -> Array:
    return rng.random(m) < 0.5


# Numbers.


def test_all_right_by_hand() -> None:
    """Ten of ten: q^10 = 0.05 at q = 0.7411, which is epsilon = ln(q / (1 - q)) = 1.0519. Four of four: q = 0.4729 < 1/2."""
    assert epsilon_lower_bound(10, 10, 10, 0.0) == pytest.approx(1.0519, abs=1e-4)
    assert epsilon_lower_bound(10, 4, 4, 0.0) == 0.0
    assert epsilon_lower_bound(10, 10, 10, 0.0, confidence=0.99) < epsilon_lower_bound(10, 10, 10, 0.0)


def test_the_papers_own_example() -> None:
    """Appendix D: 75 right of 100 guesses about 1000 canaries at delta 10^-4 give 0.673."""
    assert epsilon_lower_bound(1000, 100, 75, 1e-4) == pytest.approx(0.673, abs=5e-4)
    assert epsilon_lower_bound(1000, 100, 75, 0.0) > 0.7, "control: delta matters here"


@pytest.mark.parametrize(("m", "r", "v"), [(5, 5, 5), (9, 6, 4), (12, 7, 7), (20, 15, 11), (3, 2, 0), (3, 0, 0)])
def test_likelihood_in_exact_arithmetic(m: int, r: int, v: int) -> None:
    for odds, delta in ((1, Fraction(1, 100)), (3, Fraction(1, 1000)), (3, Fraction(0)), (20, Fraction(1, 50))):
        q = Fraction(odds, 1 + odds)
        chances = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
        best = max([Fraction(0), *(sum(chances[v - i : v], Fraction(0)) / i for i in range(1, v + 1))])
        expected = min(sum(chances[v:], Fraction(0)) + 2 * m * delta * best, Fraction(1))
        assert likelihood(m, r, v, math.log(odds), float(delta)) == pytest.approx(float(expected), rel=1e-12)


def test_half_right_says_nothing_and_more_right_says_more() -> None:
    for delta in (0.0, 1e-5):
        bounds = [epsilon_lower_bound(1000, 200, correct, delta) for correct in range(0, 201, 5)]
        assert bounds == sorted(bounds)
        assert set(bounds[: 100 // 5 + 1]) == {0.0}
        assert len(set(bounds[-15:])) == 15
    assert epsilon_lower_bound(1000, 200, 150, 1e-3) < epsilon_lower_bound(1000, 200, 150, 1e-5)


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3, 1e-2])
@pytest.mark.parametrize(("m", "r"), [(10, 10), (100, 20), (1000, 100), (1000, 1000)])
def test_likelihood_grows_with_epsilon_where_bounds_are_sought(m: int, r: int, delta: float) -> None:
    for correct in sorted({*range(r // 2, r, max(r // 10, 1)), r - 1, r}):
        found = np.array([likelihood(m, r, correct, step / 20, delta) for step in range(161)])
        below = np.maximum.accumulate(found) < 0.2
        assert (np.diff(found)[below[1:]] >= 0).all()


# Releases whose epsilon is known.


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 4.0])
def test_randomised_response_is_seldom_accused_and_mostly_caught(epsilon: float) -> None:
    """Each bit told truthfully with chance e^eps / (1 + e^eps): the release that gives audits the most."""
    m, rng = 1000, stream(0, "response", str(epsilon))
    bounds = []
    for _ in range(RUNS):
        included = coins(m, rng)
        told = included ^ (rng.random(m) < 1 / (1 + math.exp(epsilon)))
        bounds.append(audit(told + 0.0, included, m // 4, m // 4, 0.0).epsilon_lower)
    assert sum(bound > epsilon for bound in bounds) <= MISLED
    assert min(bounds) > (epsilon / 2 if epsilon >= 1 else 0)


def test_randomised_response_with_a_guess_for_each() -> None:
    m, epsilon = 1000, 4.0
    correct = binom.rvs(m, 1 / (1 + math.exp(-epsilon)), size=RUNS, random_state=stream(0, "all"))
    bounds = [epsilon_lower_bound(m, m, int(right), 0.0) for right in correct]
    assert 0 < sum(bound > epsilon for bound in bounds) <= MISLED, "the bound is tight: some audits do mislead"
    assert min(bounds) >= epsilon / 2
    # Control: without a margin for chance, about half of the audits accuse.
    assert sum(epsilon_lower_bound(m, m, int(right), 0.0, 0.5) > epsilon for right in correct) > 2 * MISLED


@pytest.mark.parametrize(("mu", "found"), [(0.5, 0.2), (1.0, 0.8), (3.0, 2.0)])
def test_gaussian_releases_are_seldom_accused(mu: float, found: float) -> None:
    """One coordinate for each canary, 1 where it is included, under noise of deviation 1 / mu: mu-GDP for each of them."""
    m, delta, rng = 1000, 1e-5, stream(0, "gauss", str(mu))
    epsilon = gaussian.epsilon_of(mu, delta)
    bounds = []
    for _ in range(RUNS):
        included = coins(m, rng)
        scores = included + rng.standard_normal(m) / mu
        bounds.append(audit(scores, included, 50, 50, delta).epsilon_lower)
    assert sum(bound > epsilon for bound in bounds) <= MISLED
    assert np.mean(bounds) > found, "control: the audit sees something"


def test_a_sixth_of_the_noise_is_found_out() -> None:
    """Planted bug: noise of the product's own sampler, scaled down too far. Control: the same at its right size."""
    m, delta, claimed = 1000, 1e-5, gaussian.epsilon_of(0.5, 1e-5)
    included, noise = coins(m, stream(0, "bug")), FixedNoise(3).draw(m) / rounded.DEVIATION
    assert audit(included + noise / 0.5, included, 50, 50, delta).epsilon_lower < claimed
    assert audit(included + noise / 3.0, included, 50, 50, delta).epsilon_lower > claimed


def test_delta_is_allowed_to_leak_what_it_may() -> None:
    """Epsilon is 0: with chance delta a canary's bit is shown, else nothing is. Guesses are made about those shown."""
    m, delta, rng = 1000, 0.05, stream(0, "leak")
    for _ in range(RUNS):
        included, shown = coins(m, rng), rng.random(m) < delta
        scores = np.where(shown, np.where(included, 1.0, -1.0), 0.0)
        assert audit(scores, included, 10, 10, delta).epsilon_lower == 0.0
        assert audit(scores, included, 10, 10, 0.0).epsilon_lower > 1.0, "control: as if nothing were allowed"


# Guesses.


def test_guesses_by_hand() -> None:
    """Highest two guessed in, lowest one out; the canary between them is left alone."""
    scores, included = np.array([0.3, -1.0, 2.0, 0.5]), np.array([True, False, True, False])
    assert audit(scores, included, 2, 1, 0.0) == Verdict(0.0, 3, 2, 4, 0.0, 0.95)
    assert audit(scores, included, 1, 1, 0.0).correct == 2
    assert audit(scores, ~included, 1, 1, 0.0).correct == 0
    assert audit(scores, included, 0, 0, 0.0) == Verdict(0.0, 0, 0, 4, 0.0, 0.95)
    assert audit(scores, included, 4, 0, 0.0).correct == 2
    assert audit(scores, included, 0, 4, 0.0).correct == 2


def test_equal_scores_are_no_hint() -> None:
    """All scores equal: who is guessed must not depend on who is included."""
    rng = stream(0, "equal")
    right = [audit(np.zeros(100), coins(100, rng), 30, 30, 0.0).correct for _ in range(RUNS)]
    # Binomial, 200 * 60 trials of chance 1/2: six standard errors, false alarm 2e-9.
    assert abs(sum(right) - RUNS * 30) < 6 * (RUNS * 60 / 4) ** 0.5


def test_what_cannot_be_judged_is_refused() -> None:
    scores, included = np.zeros(4), np.zeros(4, np.bool_)
    for bad_scores, bad_included in (
        (scores[:3], included),
        (scores[None], included[None]),
        (scores, included.astype(np.int8)),
    ):
        with pytest.raises(WrongShape, match="one number and one bool per canary"):
            audit(bad_scores, bad_included, 1, 1, 0.0)
    for bad in (np.nan, np.inf):
        with pytest.raises(NotFinite, match="score 2 is not finite"):
            audit(np.array([0, 0, bad, 0.0]), included, 1, 1, 0.0)
    for guesses in ((3, 2), (-1, 2), (2, -1)):
        with pytest.raises(ConfigError, match="guesses about 4 canaries"):
            audit(scores, included, *guesses, 0.0)
    for counts in ((10, 5, 6), (10, 11, 5), (10, 5, -1), (0, 0, 0)):
        with pytest.raises(ConfigError, match="right of"):
            epsilon_lower_bound(*counts, 0.0)
    for delta in (-1e-9, 1.0, math.nan):
        with pytest.raises(ConfigError, match="delta"):
            epsilon_lower_bound(10, 5, 5, delta)
    for confidence in (0.0, 1.0, math.nan):
        with pytest.raises(ConfigError, match="confidence"):
            epsilon_lower_bound(10, 5, 5, 0.0, confidence)
