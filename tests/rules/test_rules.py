"""Rules against slow obvious versions, worked examples and their laws (methods/robust_rules.md, section 4)."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import MemorySpace, Vector
from edgehold.defenses.baselines.rules import RULES, VectorRows, rule
from edgehold.defenses.baselines.rules.distance import TIE, first_smallest, krum_scores, squared_distances

Matrix = NDArray[np.float32]
ROBUST = ["median", "trimmed_mean", "krum"]


def combine(
    name: str, x: Matrix, f: int = 0, weights: Sequence[float] | None = None, scales: list[float] | None = None
) -> Matrix:
    sink = MemorySpace().sink(x.shape[1], "<f8")
    rows = VectorRows([Vector.of(row) for row in x], scales)
    rule(name).aggregate(rows, weights or [1.0] * len(x), f, sink)
    out: Matrix = sink.finish().whole()
    return out


def exact(x: Matrix) -> list[list[Fraction]]:
    return [[Fraction(float(v)) for v in row] for row in x]


def oracle(name: str, x: Matrix, f: int, weights: Sequence[float]) -> NDArray[np.float64]:
    """In exact fractions, straight from the definitions."""
    rows, n = exact(x), len(x)
    if name == "average":
        w = [Fraction(v) for v in weights]
        columns = [
            sum((a * b for a, b in zip(w, column, strict=True)), Fraction()) / sum(w) for column in zip(*rows, strict=True)
        ]
    elif name == "median":
        columns = [(sorted(c)[(n - 1) // 2] + sorted(c)[n // 2]) / 2 for c in zip(*rows, strict=True)]
    else:
        kept = [sorted(c)[f : n - f] for c in zip(*rows, strict=True)]
        columns = [sum(c, Fraction()) / len(c) for c in kept]
    return np.array([float(c) for c in columns])


def oracle_scores(x: Matrix, f: int) -> list[Fraction]:
    rows = exact(x)
    scores = []
    for i, a in enumerate(rows):
        others = sorted(
            sum(((p - q) ** 2 for p, q in zip(a, b, strict=True)), Fraction()) for j, b in enumerate(rows) if j != i
        )
        scores.append(sum(others[: len(rows) - f - 2], Fraction()))
    return scores


ordinary = st.floats(-100, 100, width=32)
value = st.one_of(
    ordinary, st.sampled_from([0.0, -0.0, 1.0, 1.0, -1.0, 1e30, -1e30, 1e-30, -1e-30]).map(lambda v: float(np.float32(v)))
)


@st.composite
def matrices(draw: st.DrawFn, least: int = 1, values: st.SearchStrategy[float] = value) -> Matrix:
    n, d = draw(st.integers(least, 9)), draw(st.integers(1, 5))
    flat = draw(st.lists(values, min_size=n * d, max_size=n * d))
    return np.array(flat, dtype=np.float32).reshape(n, d)


@given(matrices(), st.data())
@settings(deadline=None, max_examples=150)
def test_coordinatewise_rules_equal_exact_arithmetic(x: Matrix, data: st.DataObject) -> None:
    n = len(x)
    weights = data.draw(st.lists(st.floats(0.5, 1000), min_size=n, max_size=n))
    f = data.draw(st.integers(0, (n - 1) // 2))
    before = x.copy()
    for name in ("average", "median", "trimmed_mean"):
        got, want = combine(name, x, f, weights), oracle(name, x, f, weights)
        # Rounding of a float64 sum is measured against the largest term, which may cancel.
        assert np.all(np.abs(got - want) <= 1e-14 * np.abs(x.astype(np.float64)).max(axis=0)), name
    assert x.tobytes() == before.tobytes()


@given(matrices(least=3), st.data())
@settings(deadline=None, max_examples=150)
def test_krum_takes_a_row_of_smallest_exact_score(x: Matrix, data: st.DataObject) -> None:
    f = data.draw(st.integers(0, (len(x) - 3) // 2))
    got = combine("krum", x, f).astype(np.float32)
    scores = oracle_scores(x, f)
    best = min(scores)
    near = [i for i, score in enumerate(scores) if score <= best * Fraction(1 + 3 * TIE) + Fraction(1e-60)]
    sure = [i for i, score in enumerate(scores) if score <= best]
    assert any(np.array_equal(got, x[i]) for i in near)
    if near == sure:  # no near ties: the first client id of the exactly equal ones wins
        assert np.array_equal(got, x[near[0]])


@given(matrices(least=5, values=ordinary), st.data())
@settings(deadline=None, max_examples=60)
def test_order_of_clients_changes_nothing(x: Matrix, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(x))))
    for name in ("median", "trimmed_mean"):
        assert combine(name, x, 1).tobytes() == combine(name, x[list(order)], 1).tobytes()


def test_minus_zero_does_not_betray_the_order() -> None:
    x = np.array([[0.0], [-0.0], [-0.0]], dtype=np.float32)
    for name in ("median", "trimmed_mean"):
        assert {combine(name, x[list(p)], 1).tobytes() for p in ([0, 1, 2], [1, 0, 2], [1, 2, 0])} == {bytes(8)}


@pytest.mark.parametrize("name", list(RULES))
def test_identical_updates_return_that_update(name: str) -> None:
    row = np.array([1.5, -2.25, 1e30, 1e-30, 0.1], dtype=np.float32)
    got = combine(name, np.tile(row, (7, 1)), 0 if name == "average" else 2)
    assert np.array_equal(got.astype(np.float32), row)


@pytest.mark.parametrize("name", list(RULES))
def test_moves_and_scales_with_its_input(name: str) -> None:
    x = np.random.default_rng(0).integers(-8, 8, (7, 11)).astype(np.float32)  # exact under both operations
    f = 0 if name == "average" else 2
    base = combine(name, x, f)
    assert np.allclose(combine(name, x + 16, f), base + 16, rtol=0, atol=1e-12)
    assert np.allclose(combine(name, x * 4, f), base * 4, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e6, 1e30, 3e38])
@pytest.mark.parametrize("name", ROBUST)
def test_outliers_stay_outside(name: str, size: float) -> None:
    rng = np.random.default_rng(1)
    honest = rng.standard_normal((6, 40)).astype(np.float32)
    liars = np.full((2, 40), size, dtype=np.float32)
    liars[1] *= rng.choice([-1.0, 1.0], 40).astype(np.float32)
    got = combine(name, np.vstack([liars, honest]), 2)
    assert np.all(got >= honest.min(axis=0))
    assert np.all(got <= honest.max(axis=0))
    if name == "krum":  # huge liars must not blur the distances among the honest
        scores = oracle_scores(np.vstack([liars, honest]), 2)
        assert np.array_equal(got.astype(np.float32), honest[scores.index(min(scores)) - 2])


def test_average_is_moved_by_one_liar() -> None:
    """Control: what the robust rules withstand does break the average."""
    x = np.vstack([np.zeros((7, 3)), np.full((1, 3), 8e6)]).astype(np.float32)
    assert combine("average", x).tolist() == [1e6] * 3


def test_by_hand() -> None:
    # Columns: (1, 2, 6) and (0, 0, 9). Weights 1, 1, 2: (1 + 2 + 12) / 4 = 3.75; (0 + 0 + 18) / 4 = 4.5.
    x = np.array([[1, 0], [2, 0], [6, 9]], dtype=np.float32)
    assert combine("average", x, 0, [1, 1, 2]).tolist() == [3.75, 4.5]
    assert combine("median", x).tolist() == [2, 0]
    assert combine("trimmed_mean", x, 1).tolist() == [2, 0]
    assert combine("trimmed_mean", x, 0).tolist() == [3, 3]
    # Squared distances: 0-1: 1, 0-2: 25 + 81 = 106, 1-2: 16 + 81 = 97. One nearest neighbour each: 1, 1, 97; first wins.
    assert combine("krum", x, 0).tolist() == [1, 0]
    assert np.allclose(squared_distances(VectorRows([Vector.of(r) for r in x])), [[0, 1, 106], [1, 0, 97], [106, 97, 0]])


def test_robust_rules_ignore_weights_and_average_does_not() -> None:
    x = np.random.default_rng(2).standard_normal((7, 5)).astype(np.float32)
    loud = [1.0] * 6 + [1000.0]
    for name in ROBUST:
        assert np.array_equal(combine(name, x, 2, loud), combine(name, x, 2))
    assert not np.allclose(combine("average", x, 0, loud), combine("average", x))


def test_blocks_and_scales_make_no_difference() -> None:
    """A model of several column blocks equals its parts, and scales equal scaled rows."""
    x = np.random.default_rng(3).standard_normal((7, 70_000)).astype(np.float32)
    scales = [1.0, 0.5, 2.0, 1.0, 0.25, 1.0, 4.0]  # powers of two: exact
    scaled = (x * np.array(scales, dtype=np.float32)[:, None]).astype(np.float32)
    for name in RULES:
        f = 0 if name == "average" else 2
        whole = combine(name, x, f, scales=scales)
        assert whole.tobytes() == combine(name, scaled, f).tobytes()
        if name != "krum":
            parts = [combine(name, scaled[:, lo : lo + 999], f) for lo in range(0, 70_000, 999)]
            assert whole.tobytes() == np.concatenate(parts).tobytes()


def test_near_ties_go_to_the_first() -> None:
    assert first_smallest(np.array([1.0 + 1e-12, 1.0, 2.0])) == 0
    assert first_smallest(np.array([1.0 + 1e-6, 1.0, 2.0])) == 1
    assert krum_scores(np.zeros((3, 3)), 0).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "n", "f", "allowed"),
    [
        ("average", 8, 1, "liars = 0"),
        ("median", 4, 2, "0 to 1"),
        ("trimmed_mean", 4, 2, "at least 5 updates"),
        ("krum", 6, 2, "at least 7 updates"),
        ("krum", 2, 0, "at least 3"),
    ],
)
def test_impossible_numbers_are_refused_with_what_is_possible(name: str, n: int, f: int, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"rule {name}.*{allowed}"):
        rule(name).check(n, f)
    rule(name).check(7, 0 if name == "average" else 2)


def test_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match='did you mean "trimmed_mean"'):
        rule("trimed_mean")
