"""Scores, rates and splits of membership inference, by hand, by counting pairs, and on laws whose answer is known."""

from math import erf, log, sqrt

import numpy as np
import pytest

from edgehold.attacks.privacy.membership.population import inside, make_task, members, records
from edgehold.attacks.privacy.membership.roc import auc, enough, exact_interval, rate_at
from edgehold.attacks.privacy.membership.scores import confidence, loss, offline, online, ranked
from edgehold.core.errors import ConfigError, NotFinite, WrongShape
from edgehold.core.vectors import Array

POOL = 60


def normal_cdf(x: float) -> float:
    return 0.5 * (1 + erf(x / sqrt(2)))


def test_the_area_counts_pairs() -> None:
    """Few distinct values, so that there are ties: 1 for each pair in order, 1/2 for each tie."""
    rng = np.random.default_rng(0)
    for n, m in ((1, 1), (7, 4), (30, 50)):
        yes, no = rng.integers(0, 6, n).astype(float), rng.integers(0, 5, m).astype(float)
        pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in yes for b in no]
        assert auc(yes, no) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_the_area_of_two_normal_laws_is_known() -> None:
    """Means d' apart, deviation 1: Phi(d' / sqrt 2). 20,000 a side: deviation below 0.0029, so 4 of them are 0.012."""
    rng = np.random.default_rng(1)
    for apart in (0.0, 1.0, 2.0):
        found = auc(rng.normal(apart, 1, 20_000), rng.normal(0, 1, 20_000))
        assert found == pytest.approx(normal_cdf(apart / sqrt(2)), abs=0.012)


def test_exact_intervals_are_those_of_the_tables() -> None:
    """Clopper and Pearson: 5 of 10 is 0.1871 to 0.8129; 0 of n ends at 1 - 0.025 ** (1 / n)."""
    assert exact_interval(5, 10) == pytest.approx((0.1871, 0.8129), abs=5e-5)
    assert exact_interval(0, 5000) == pytest.approx((0.0, 1 - 0.025 ** (1 / 5000)))
    assert exact_interval(7, 7) == pytest.approx((0.025 ** (1 / 7), 1.0))
    with pytest.raises(ConfigError, match="8 hits in 7 trials"):
        exact_interval(8, 7)


def test_hits_are_counted_above_the_alarms_that_are_allowed() -> None:
    """Others 0..4999: 5 may be above at 0.1 %, so the threshold is 4994; two of the members are above it."""
    others = np.random.default_rng(2).permutation(5000).astype(float)
    found = rate_at(np.array([1.0, 4994.0, 4994.5, 6000.0]), others, 0.001)
    assert found is not None
    assert (found.hits, found.members, found.alarms, found.others, found.rate) == (2, 4, 5, 5000, 0.5)
    assert (found.low, found.high) == exact_interval(2, 4)
    assert found.alarm_low < 0.001 < found.alarm_high
    level = rate_at(np.array([3.0, 3.0, 5.0]), np.repeat([1.0, 3.0], 2500), 0.001)
    assert level is not None
    assert (level.hits, level.alarms) == (1, 0), "ties never let more alarms through than allowed"


def test_too_few_non_members_give_no_rate() -> None:
    assert rate_at(np.ones(9), np.zeros(4999), 0.001) is None
    assert rate_at(np.ones(9), np.zeros(5000), 0.001) is not None
    assert (enough(499, 0.01), enough(500, 0.01)) == (False, True)


def test_numbers_that_rank_nothing_are_refused() -> None:
    with pytest.raises(NotFinite, match="members"):
        auc(np.array([np.nan]), np.zeros(2))
    with pytest.raises(ConfigError, match="others"):
        auc(np.zeros(2), np.zeros(0))


def test_confidence_is_stable_where_the_softmax_is_not() -> None:
    """Two classes: phi is the difference of the outputs, however large. Three of ln 2, 0, 0: p = 1/2, phi = 0; raised by 1000
    and less sure, 1001 and 1000, 1000: 1 - ln 2.
    """
    large = confidence(np.array([[1001.0, 1000.0, 1000.0]]), np.array([0]))
    assert large[0] == pytest.approx(1 - log(2), abs=1e-9)
    outputs = np.array([[1000.0, 0.0], [-1000.0, 0.0], [0.0, 0.0]], np.float32)
    assert confidence(outputs, np.array([0, 0, 1])).tolist() == [1000.0, -1000.0, 0.0]
    assert confidence(np.array([[log(2), 0.0, 0.0]]), np.array([0]))[0] == pytest.approx(0.0, abs=1e-12)
    rng = np.random.default_rng(3)
    usual, labels = rng.normal(0, 2, (50, 4)), rng.integers(0, 4, 50)
    p = np.exp(usual)[np.arange(50), labels] / np.exp(usual).sum(axis=1)
    phi = confidence(usual, labels)
    assert phi == pytest.approx(np.log(p / (1 - p)), abs=1e-9)
    assert loss(phi) == pytest.approx(np.log(p), abs=1e-9)
    with pytest.raises(WrongShape, match="labels"):
        confidence(usual, labels[:3])


BY_HAND: tuple[Array, Array, Array] = (
    np.array([3.0, 0.25]),
    np.array([[3.0, 1.0], [-1.0, 0.0], [5.0, 1.0], [1.0, 0.0]]),
    np.array([[True, True], [False, False], [True, True], [False, False]]),
)


def test_likelihood_ratios_by_hand() -> None:
    """Record A: in 3 and 5, out -1 and 1; B: in 1 and 1, out 0 and 0. Pooled over both, a degree of freedom each, the variance
    is (1 + 1 + 0 + 0) / 2 = 1 on either side. A at 3: -(3 - 4)^2 / 2 + 3^2 / 2 = 4. B at 1/4: -9/32 + 1/32 = -1/4.
    Offline: 3 and 1/4 deviations above the mean of out.
    """
    assert online(*BY_HAND) == pytest.approx([4.0, -0.25])
    assert offline(*BY_HAND) == pytest.approx([3.0, 0.25])


def test_with_64_models_each_record_has_its_own_variance() -> None:
    """Against the densities written out. Out of record A is 10 times as wide as that of B: the same distance says less."""
    rng = np.random.default_rng(4)
    which = np.tile([[True], [False]], (32, 2))
    shadows = np.where(which, 3.0, 0.0) + rng.normal(0, [1.0, 0.1], (64, 2))
    phi = np.array([1.0, 1.0])
    expected = []
    for record in (0, 1):
        one, other = shadows[which[:, record], record], shadows[~which[:, record], record]
        logs = [-((1 - part.mean()) ** 2) / (2 * part.var(ddof=1)) - log(part.std(ddof=1)) for part in (one, other)]
        expected.append(logs[0] - logs[1])
    assert online(phi, shadows, which) == pytest.approx(expected)
    apart = offline(phi, shadows, which)
    assert apart[1] > 5 * apart[0]
    few = offline(phi, shadows[:62], which[:62])
    assert few[1] == pytest.approx(few[0], rel=0.5), "below 64 models one variance serves both"


def test_easy_and_hard_records_confuse_the_loss_and_not_the_ratio() -> None:
    """Records differ by a deviation of 10 in how sure any model is of them; having been learnt adds 2, deviation 1. The ratio
    is then that of two normal laws 2 apart, 0.921 with exact means and a little less with means of 16; the loss sees 2 in
    sqrt(2 * 101). 4,000 a side: 4 deviations are 0.026.
    """
    rng = np.random.default_rng(5)
    n, level = 8000, rng.normal(0, 10, 8000)
    which = np.tile([[True], [False]], (16, n))
    which[:, n // 2 :] = ~which[:, n // 2 :]
    shadows = level + 2.0 * which + rng.normal(0, 1, (32, n))
    learnt = rng.permutation(n) < n // 2
    phi = level + 2.0 * learnt + rng.normal(0, 1, n)
    found = {name: auc(s[learnt], s[~learnt]) for name, s in {
        "loss": loss(phi), "online": online(phi, shadows, which), "offline": offline(phi, shadows, which)}.items()}  # fmt: skip
    assert found["loss"] == pytest.approx(normal_cdf(2 / sqrt(202)), abs=0.026)
    assert found["online"] == pytest.approx(0.921, abs=0.026)
    assert found["offline"] == pytest.approx(normal_cdf(2 / sqrt(2 * (1 + 1 / 16))), abs=0.026)


def test_ranks_against_a_population_by_hand() -> None:
    """p: 1/2 of x, 1/4 in the one model that never saw it: with mix 1 the ratio is 2. Population 0.3 and 0.5 where models say
    0.5: 0.6 and 1. Both are dominated at gamma 1; at gamma 2.5 the bar is 0.8 and one is. With mix 0 the means become
    (p + 1) / 2: ratio 0.8 against 0.4 and 2/3: both.
    """

    def phi(p: Array) -> Array:
        found: Array = np.log(p / (1 - p))
        return found

    x, shadows = phi(np.array([0.5])), phi(np.array([[0.25], [0.9]]))
    which = np.array([[False], [True]])
    public, shadows_public = phi(np.array([0.3, 0.5])), phi(np.full((2, 2), 0.5))
    asked = (x, shadows, which, public, shadows_public)
    assert ranked(*asked, mix=1.0).tolist() == [1.0]
    assert ranked(*asked, gamma=2.5, mix=1.0).tolist() == [0.5]
    assert ranked(*asked, mix=0.0).tolist() == [1.0]
    assert ranked(*asked, gamma=1.5, mix=0.0).tolist() == [0.5]  # the bar is 0.533
    with pytest.raises(ConfigError, match="at least 4"):
        ranked(*asked)


def test_what_has_no_likelihood_is_refused() -> None:
    phi, shadows, which = BY_HAND
    with pytest.raises(WrongShape, match="inside"):
        online(phi, shadows, which[:2])
    with pytest.raises(ConfigError, match="record 0 has no shadow model"):
        offline(phi, shadows, np.ones_like(which))
    with pytest.raises(ConfigError, match="no spread"):
        online(phi[:1], shadows[:2, :1], which[:2, :1])


def test_every_model_learns_half_and_pairs_share_the_pool() -> None:
    target = members(POOL, 3, "target")
    assert target.sum() == POOL // 2
    which = inside(POOL, 3, 6)
    assert (which.sum(axis=1) == POOL // 2).all()
    assert (which.sum(axis=0) == 3).all(), "each record is in exactly half of the shadow models"
    assert (which[0] == ~which[1]).all()
    assert not (which[0] == which[2]).all()
    assert not any((target == one).all() for one in which)
    assert not (target == members(POOL, 4, "target")).all()
    assert not members(POOL, 3, "stranger").any()


def test_devices_hold_just_the_members_and_a_stranger_none_of_the_pool() -> None:
    """Digits are images of 64 numbers: records are told apart by them."""

    def held(role: str, index: int = 0) -> list[bytes]:
        tasks = [make_task("digits", i, 3, POOL, 5, role, index) for i in range(3)]  # type: ignore[arg-type]
        assert all(task.test_data is None for task in tasks)
        return sorted(row.numpy().tobytes() for task in tasks for row in task.train_data[0])  # type: ignore[index]

    whole = records("digits", "", POOL, 5)
    rows = [np.ascontiguousarray(row).tobytes() for row in whole.x]
    assert held("target") == sorted(row for row, mine in zip(rows, members(POOL, 5, "target"), strict=True) if mine)
    assert sorted(held("shadow", 0) + held("shadow", 1)) == sorted(rows)
    stranger = held("stranger")
    assert len(stranger) == POOL // 2
    assert not set(stranger) & set(rows)
    assert make_task("digits", -1, 3, POOL, 5, "target").train_data is None
    with pytest.raises(ConfigError, match="takes 1500 training records"):
        make_task("digits", 0, 3, 1000, 5, "target")
