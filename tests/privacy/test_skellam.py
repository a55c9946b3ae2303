"""Skellam noise: its law in samples and in exact arithmetic, its sums, and the account that is charged for it."""

from bisect import bisect_right
from decimal import Decimal, localcontext
from functools import lru_cache
from math import exp, factorial, inf, sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp
from tests.support.fixed_noise import fixed_words
from tests.support.masked import advertised, masked, revealed, settled, shared

from edgehold.core.errors import BudgetSpent
from edgehold.core.masks import noise
from edgehold.core.masks.noise import SharedNoise
from edgehold.core.masks.terms import threshold
from edgehold.core.privacy import accounting, events, renyi, skellam
from edgehold.core.privacy.bill import mechanism
from edgehold.core.privacy.ledger import Cause, Ledger, Limit
from edgehold.core.privacy.skellam import Skellam, farthest
from edgehold.core.vectors import Array

DRAWS = 400_000
ALARM = 1e-7
"""Chance with which one test accuses a sound sampler."""
VARIANCES = (0.01, 0.3, 1.0, 7.5, 300.0, 4000.0, 2.0**18, 3 * 2.0**18 + 1)


@lru_cache(maxsize=32)
def log_chances(variance: float, most: int) -> Array:
    """Logarithms of the chances of 0 to `most`."""
    with localcontext(skellam._DIGITS):
        return np.array([float(one.ln()) for one in skellam._chances(variance, 2 * most + 40)[: most + 1]])


def accusations(x: Array, variance: float) -> list[str]:
    """Names of the tests that such values fail."""
    n, found = len(x), []
    # cumulants of Skellam: variance V, fourth V, so that E x^4 = 3 V^2 + V
    checks = {
        "mean": abs(x.mean()) / sqrt(variance / n),
        "variance": abs((x.astype(float) ** 2).mean() - variance) / sqrt((2 * variance**2 + variance) / n),
        "apart": abs((x[1:] * x[:-1]).mean()) / (variance / sqrt(n - 1)),
    }
    found += [name for name, off in checks.items() if 2 * stats.norm.sf(off) < ALARM]
    edges = np.unique(np.round(np.arange(-2.5, 2.51, 0.25) * sqrt(variance)))
    chances = np.diff(np.concatenate([[0.0], stats.skellam.cdf(edges, variance / 2, variance / 2), [1.0]]))
    counts = np.bincount(np.searchsorted(edges, x), minlength=len(chances))
    keep = n * chances > 20
    expected, counts = n * np.append(chances[keep], chances[~keep].sum()), np.append(counts[keep], counts[~keep].sum())
    if expected[-1] < 20:  # what is too rare to be counted alone goes to its neighbour
        expected, counts = np.append(expected[:-2], expected[-2:].sum()), np.append(counts[:-2], counts[-2:].sum())
    if stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), len(expected) - 1) < ALARM:
        found.append("cells")
    return found


@pytest.mark.parametrize("variance", VARIANCES)
def test_draws_follow_the_law(variance: float) -> None:
    assert not accusations(Skellam(variance, fixed_words(1)).draw(DRAWS), variance)


def test_the_systems_noise_follows_the_law_and_never_repeats() -> None:
    source = Skellam(50.0)
    x = source.draw(DRAWS)
    assert not accusations(x, 50.0)
    assert not np.array_equal(x, source.draw(DRAWS))
    assert not np.array_equal(x, Skellam(50.0).draw(DRAWS))


@pytest.mark.parametrize(
    "broken",
    [
        lambda x: np.abs(x),
        lambda x: x + 1,
        lambda x: np.rint(x * 1.1).astype(np.int64),
        lambda x: x & ~1,
        lambda x: np.where(np.arange(len(x)) % 2, x, np.roll(x, 1)),
        lambda x: np.rint(np.random.default_rng(0).standard_normal(len(x)) * 8).astype(np.int64),
    ],
)
def test_bugs_in_the_sampler_are_seen(broken: object) -> None:
    assert accusations(broken(Skellam(50.0, fixed_words(2)).draw(DRAWS)), 50.0)  # type: ignore[operator]


def test_sums_of_shares_follow_the_law_of_the_whole() -> None:
    """12 shares are Skellam of the sum of variances; 12 rounded Gaussians of so little noise are visibly not a Gaussian."""
    x = sum(Skellam(0.25, fixed_words(number)).draw(DRAWS) for number in range(12))
    assert not accusations(np.asarray(x), 3.0)
    chance = np.random.default_rng(0)
    rounded = sum(np.rint(chance.standard_normal(DRAWS) * 0.5).astype(np.int64) for _ in range(12))
    assert accusations(np.asarray(rounded), 3.0)


@pytest.mark.parametrize("variance", [0.5, 20.0, 900.0])
def test_chances_are_those_of_the_series(variance: float) -> None:
    """e^-V I_k(V) = e^-V sum_m (V/2)^(2m+k) / m! (m+k)!, in 90 digits; the table within 10^-55 of it."""
    most = farthest(variance, 92.0)
    with localcontext(skellam._DIGITS) as digits:
        digits.prec = 90
        half = Decimal(variance) / 2
        chances = skellam._chances(variance, 2 * most + 20)
        for k in (0, 1, 5, most // 2, most):
            term = half**k / factorial(k)
            total, m = term, 0
            while term > total * Decimal(10) ** -85:
                m += 1
                term *= half * half / (m * (m + k))
                total += term
            assert abs(chances[k] / (total * (-Decimal(variance)).exp()) - 1) < Decimal(10) ** -55
        assert 2 * sum(chances[most + 1 :]) < Decimal(2) ** -130  # what is beyond the table


def test_thresholds_are_the_sums_of_chances_and_open_draws_are_settled_by_them() -> None:
    thresholds, edges = skellam._table(7.5)
    most = len(thresholds) // 2
    with localcontext(skellam._DIGITS):
        chances = skellam._chances(7.5, 2 * most + 20)
        for at in range(-most + 1, most):
            width = thresholds[at + most] - thresholds[at + most - 1]
            assert abs(width - chances[abs(at)] * (1 << 128)) <= 1
    assert thresholds == sorted(thresholds)
    met = int(edges[most])  # a word that meets the first half of a threshold: the next 64 bits decide
    low = thresholds[most] & (2**64 - 1)
    for more, value in ((0, 0), (max(low - 1, 0), 0), (low, 1), (2**64 - 1, 1)):
        words = iter([np.array([met], np.uint64), np.array([more], np.uint64)])
        assert Skellam(7.5, lambda count, words=words: next(words)).draw(1)[0] == value  # type: ignore[misc]
    for word in np.random.default_rng(3).integers(1 << 64, size=200, dtype=np.uint64):
        words = iter([np.array([word]), np.empty(0, np.uint64)])
        found = Skellam(7.5, lambda count, words=words: next(words)).draw(1)[0]  # type: ignore[misc]
        assert found == bisect_right(thresholds, int(word) << 64) - most


def test_values_lie_within_what_margins_assume() -> None:
    for variance in (0.5, 3.0, 200.0):
        lp = log_chances(variance, farthest(variance, 40.0) + 400)
        for log_chance in (1.0, 10.0, 27.7, 40.0):
            far = farthest(variance, log_chance)
            assert 2 * np.exp(lp[far:]).sum() <= exp(-log_chance)


def test_impossible_variances_are_refused() -> None:
    for variance in (0.0, -1.0, inf, 2 * skellam.LARGEST):
        with pytest.raises(ValueError, match="variance"):
            Skellam(variance)


# The account.


def exact(variance: float, shift: int, order: float) -> float:
    """Renyi divergence of Skellam and itself moved by `shift`, summed up; the same both ways, by symmetry."""
    lp = log_chances(variance, int(60 * sqrt(variance)) + 400)
    full = np.concatenate([lp[:0:-1], lp])
    return float(logsumexp(order * full[shift:] - (order - 1) * full[:-shift]) / (order - 1))


@pytest.mark.parametrize("variance", [0.5, 2.0, 20.0, 1000.0])
def test_the_bound_holds_and_is_no_waste(variance: float) -> None:
    tightest = 0.0
    for order in (1.125, 1.5, 2.0, 2.25, 3.0, 8.0, 17.5, 64.0):
        for shift in (1, 2, 3, 10, 25):
            bound, true = renyi.skellam(shift, shift, variance, order), exact(variance, shift, order)
            assert true <= bound * (1 + 1e-9)
            tightest = max(tightest, true / bound)
            if order == int(order) and order * shift <= variance / 4:
                assert bound <= 1.3 * true
            assert bound >= renyi.gaussian(shift / sqrt(variance), order)  # never cheaper than a Gaussian of its variance
    assert tightest > (0.2 if variance < 20 else 0.9)


def test_the_bound_holds_for_vectors() -> None:
    """Divergences of independent entries add up; sensitivities of the whole vector bound their sum."""
    for shifts in ([1] * 50, [1, 2, 3, 4], [7, 0, 0, 1]):
        euclid, absolute = float(np.linalg.norm(shifts)), float(np.abs(shifts).sum())
        for order in (2.0, 5.0, 32.0):
            true = sum(exact(30.0, shift, order) for shift in shifts if shift)
            assert true <= renyi.skellam(euclid, absolute, 30.0, order)
            assert absolute <= noise.sensitivities(len(shifts), euclid)[1] + 1e-9


def test_epsilon_against_the_exact_curve() -> None:
    """One entry, shift 10, deviation 40: delta(eps) summed over all values; the ledger's epsilon is above it, not by half."""
    variance, shift, delta = 1600.0, 10, 1e-5
    lp = log_chances(variance, 1500)
    full = np.concatenate([lp[:0:-1], lp])
    p, q = full[shift:], full[:-shift]

    def curve(epsilon: float) -> float:
        return float(np.maximum(np.exp(p) - exp(epsilon) * np.exp(q), 0).sum())

    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if curve(middle) > delta else (low, middle)
    event = events.Skellam(sensitivity=shift, absolute=shift, variance=variance)
    claimed = min(renyi.epsilon_of(accounting.divergence(event, order), order, delta) for order in renyi.ORDERS)
    assert high <= claimed <= 1.5 * high
    halved = events.Skellam(sensitivity=shift / 2, absolute=shift / 2, variance=variance)  # a planted bug: half the sensitivity
    assert min(renyi.epsilon_of(accounting.divergence(halved, order), order, delta) for order in renyi.ORDERS) < high


def test_the_ledger_charges_it_and_stops(tmp_path: Path) -> None:
    event = SharedNoise(1e6).event(1000, 32, 100.0, *noise.sensitivities(1000, 100.0)[1:])
    assert event.unit == "user"
    assert events.decode(events.encode(event)) == event
    assert accounting.squared_mu(event) == inf
    assert "skellam x 1, noise 10 x" in mechanism(event)
    ledger = Ledger(tmp_path / "ledger.db")
    causes = [Cause("run", number, 1, b"n") for number in range(1, 27)]
    charged = 0
    for cause in causes:
        try:
            ledger.charge("data", Limit(2.0, 1e-5), cause, (event,))
        except BudgetSpent:
            break
        charged += 1
    ledger.close()
    # n Gaussian releases of mu 0.1 are sqrt(n) / 10 - GDP; epsilon 2 at 1e-5 allows mu 0.508, which is 25 of them.
    assert 18 <= charged <= 25


# Under masks.


def test_the_fewest_survivors_leave_the_promised_noise() -> None:
    """All sums over the fewest survivors, of zeros: variance V of the promise and not less. 300 entries, 20 groups."""
    members, wanted = 8, 400.0
    shares = SharedNoise(wanted)
    margin = shares.margin(members, members, 300)
    seen = []
    for seed in range(4):
        played = advertised(members, seed, entries=300, bits=16, largest=1, margin=margin)
        shared(played)
        for number, who in enumerate(played.group.roster.ids[: threshold(members) + 1]):
            source = shares.drawn(members, fixed_words(100 * seed + number))
            vector = noise.noised(np.zeros(300, np.int64), source)
            played.uploads[who] = masked(played.clients[who], vector)
            played.group.upload(who, played.clients[who].upload_digest, played.uploads[who].size)
        revealed(played)
        seen.append(np.concatenate(list(settled(played).blocks())))
    x = np.concatenate(seen)
    assert len(x) == 1200
    assert not accusations(x, wanted)
    assert abs(x.var() / wanted - 1) < 0.25  # 6 deviations
    assert x.min() < 0  # noise below zero is read as such
