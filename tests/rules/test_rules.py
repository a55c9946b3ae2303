"""Coordinate-wise rules, worked examples and the laws every recipe keeps."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgehold.core.vectors import MemorySpace, Vector
from edgehold.defenses.baselines.rules import PRE_STEPS, RULES, Round, VectorRows, recipe
from edgehold.defenses.baselines.rules.choice import first_smallest, smallest
from edgehold.defenses.baselines.rules.ordering import comparisons

Matrix = NDArray[np.float32]
IDS = [f"c{i:03}" for i in range(300)]
OPTIONS: Mapping[str, dict[str, float | str]] = {
    "centred_clipping": {"radius": 30.0, "iterations": 20},
    "monna": {"trusted": IDS[3]},
    "clipping": {"clip_to": 1000.0},
    "sign_majority": {"step": 0.5},
}
ROBUST = [name for name in RULES if name != "average"]
COMPOSED = [*RULES, *(f"{step}+{rule}" for step in PRE_STEPS for rule in RULES), "bucketing+arc+krum", "norm_bound+nnm+median"]
VOTING = {name for name in COMPOSED if RULES[name.split("+")[-1]].votes}
"""Their result is a step: laws about points among the updates do not apply."""


def options(name: str) -> dict[str, float | str]:
    return {key: value for part in name.split("+") for key, value in OPTIONS.get(part, {}).items()}


def combine(
    name: str, x: Matrix, f: int = 0, weights: Sequence[float] = (), scales: list[float] | None = None, **given: float | str
) -> NDArray[np.float64]:
    sink = MemorySpace().sink(x.shape[1], "<f8")
    rows = VectorRows([Vector.of(row) for row in x], scales)
    recipe(name, options(name) | given).aggregate(rows, Round(f, weights, IDS[: len(x)]), sink)
    out: NDArray[np.float64] = sink.finish().whole()
    return out


def usable(name: str) -> bool:
    """monna behind bucketing has no trusted client left."""
    return not ("bucketing" in name and "monna" in name)


def liars(name: str) -> int:
    return 0 if name.endswith("average") else 1 if "bulyan" in name or "bucketing" in name else 2


def size(name: str) -> int:
    return 15 if "bucketing" in name else 9


ordinary = st.floats(-100, 100, width=32)
extreme = st.sampled_from([0.0, -0.0, 1.0, 1.0, -1.0, 1e30, -1e30, 1e-30, -1e-30]).map(lambda v: float(np.float32(v)))


@st.composite
def matrices(draw: st.DrawFn, least: int = 1, values: st.SearchStrategy[float] = ordinary | extreme) -> Matrix:
    n, d = draw(st.integers(least, 12)), draw(st.integers(1, 5))
    flat = draw(st.lists(values, min_size=n * d, max_size=n * d))
    return np.array(flat, dtype=np.float32).reshape(n, d)


def column(name: str, values: list[Fraction], f: int, weights: list[Fraction]) -> Fraction:
    """One coordinate in exact fractions, straight from the definition."""
    n, ordered = len(values), sorted(values)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    if name == "average":
        return sum((a * b for a, b in zip(weights, values, strict=True)), Fraction()) / sum(weights)
    if name == "median":
        return middle
    if name == "meamed":  # of two equally near, the smaller
        ordered = sorted(values, key=lambda v: (abs(v - middle), v))[: n - f]
        return sum(ordered, Fraction()) / len(ordered)
    return sum(ordered[f : n - f], Fraction()) / (n - 2 * f)


@given(matrices(), st.data())
@settings(deadline=None, max_examples=200)
def test_coordinatewise_rules_equal_exact_arithmetic(x: Matrix, data: st.DataObject) -> None:
    n = len(x)
    weights = data.draw(st.lists(st.floats(0.5, 1000), min_size=n, max_size=n))
    f = data.draw(st.integers(0, (n - 1) // 2))
    before = x.copy()
    for name in ("average", "median", "trimmed_mean", "meamed"):
        got = combine(name, x, 0 if name == "average" else f, weights)
        exact = [column(name, [Fraction(float(v)) for v in values], f, [Fraction(w) for w in weights]) for values in x.T]
        if name == "meamed" and near_tie(x, f):
            continue
        # Rounding of a float64 sum is measured against the largest term, which may cancel.
        assert np.all(np.abs(got - [float(v) for v in exact]) <= 1e-14 * np.abs(x.astype(np.float64)).max(axis=0)), name
    assert x.tobytes() == before.tobytes()


def near_tie(x: Matrix, f: int) -> bool:
    """Whether two values are so nearly equally far from a median that float64 sums of two values cannot tell."""
    n = len(x)
    for values in x.T:
        v = sorted(Fraction(float(value)) for value in values)
        twice = v[(n - 1) // 2] + v[n // 2]
        for i in range(f):
            both = v[i] + v[i + n - f]
            if both != twice and abs(both - twice) <= Fraction(1e-15) * (abs(v[i]) + abs(v[i + n - f]) + abs(twice)):
                return True
    return False


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 50, 64, 65, 100, 130])
@pytest.mark.parametrize("name", ["median", "trimmed_mean", "meamed"])
def test_network_and_sort_agree_with_numpy(name: str, n: int) -> None:
    """Both ways of ordering, several blocks of columns, more than one thread, many ties."""
    rng = np.random.default_rng(n)
    x = rng.integers(-9, 9, (n, 70_001)).astype(np.float32) if n % 2 else rng.standard_normal((n, 70_001), dtype=np.float32)
    f, ordered = (n - 1) // 3, np.sort(x.astype(np.float64), axis=0)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    if name == "median":
        want = middle
    elif name == "trimmed_mean":
        want = ordered[f : n - f].mean(axis=0)
    else:
        nearest = np.argsort(np.abs(ordered - middle), axis=0, kind="stable")[: n - f]
        want = np.take_along_axis(ordered, nearest, axis=0).mean(axis=0)
    assert np.allclose(combine(name, x, f), want, rtol=0, atol=1e-13 * max(1.0, float(np.abs(x).max())))


@given(st.integers(1, 40), st.data())
@settings(deadline=None, max_examples=60)
def test_a_pruned_network_orders_what_is_wanted(n: int, data: st.DataObject) -> None:
    """Zero-one principle on drawn inputs: marked ranks hold the right multiset, single marks the right value."""
    marks = tuple(data.draw(st.lists(st.sampled_from([None, "a", "b", "own"]), min_size=n, max_size=n)))
    marks = tuple(f"own {i}" if mark == "own" else mark for i, mark in enumerate(marks))
    for _ in range(20):
        values = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
        out = list(values)
        for low, high, want_low, want_high in comparisons(n, marks):
            small, large = min(out[low], out[high]), max(out[low], out[high])
            out[low], out[high] = small if want_low else -9, large if want_high else -9
        for mark in set(marks) - {None}:
            ranks = [rank for rank in range(n) if marks[rank] == mark]
            assert sorted(out[rank] for rank in ranks) == [sorted(values)[rank] for rank in ranks]
    assert len(comparisons(20, tuple(range(20)))) == 97  # Knuth's count for a full sort


@pytest.mark.parametrize("name", [name for name in COMPOSED if usable(name) and name not in VOTING])
def test_identical_updates_return_that_update(name: str) -> None:
    row = np.array([1.5, -2.25, 1e30, 1e-30, 0.1], dtype=np.float32)
    if {"clipping", "norm_bound", "centred_clipping"} & set(name.split("+")):
        row[2] = 100.0
    given: dict[str, Any] = {"radius": 1e9} if "centred_clipping" in name else {}
    got = combine(name, np.tile(row, (size(name), 1)), liars(name), **given).astype(np.float32)
    assert np.allclose(got, row, rtol=1e-6 if "norm_bound" in name or "centred" in name else 0, atol=0)


@pytest.mark.parametrize("name", [name for name in COMPOSED if usable(name)])
def test_no_liars_among_updates_that_agree_and_inputs_stay(name: str) -> None:
    x = np.random.default_rng(5).standard_normal((size(name), 6)).astype(np.float32)
    x.flags.writeable = False
    before = x.copy()
    got = combine(name, x, liars(name))
    assert np.isfinite(got).all()
    assert x.tobytes() == before.tobytes()
    assert np.linalg.norm(got) <= 2 * np.linalg.norm(x, axis=1).max()


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("median", "krum", "geometric_median", *VOTING)])
def test_without_liars_the_mean(name: str) -> None:
    x = np.random.default_rng(6).standard_normal((7, 5)).astype(np.float32)
    given: dict[str, Any] = {"radius": 1e9} if name == "centred_clipping" else {}
    assert np.allclose(combine(name, x, 0, **given), x.astype(np.float64).mean(axis=0), rtol=0, atol=1e-12)


# Bulyan's last choices look at one neighbour: two points nearest each other tie, and the first client id is taken.
@pytest.mark.parametrize("name", [n for n in COMPOSED if not any(part in n for part in ("bucketing", "monna", "bulyan"))])
def test_order_of_clients_changes_nothing(name: str) -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((9, 6)).astype(np.float32)
    base = combine(name, x, liars(name))
    for _ in range(4):
        assert np.allclose(combine(name, x[rng.permutation(9)], liars(name)), base, rtol=0, atol=1e-6), name


@pytest.mark.parametrize(
    "name",
    [*(name for name in RULES if name not in VOTING), "nnm+krum", "nnm+trimmed_mean", "nnm+geometric_median", "bucketing+krum"],
)
def test_moves_and_scales_with_its_input(name: str) -> None:
    rng = np.random.default_rng(8)
    x = rng.integers(-8, 8, (size(name), 11)).astype(np.float32)  # exact under both operations
    x[:, 0] += np.arange(size(name))
    f, still = liars(name), 1e-5 if "+" in name else 1e-9
    base = combine(name, x, f)
    if "centred_clipping" not in name:  # starts at the origin
        assert np.allclose(combine(name, x + 16, f), base + 16, rtol=0, atol=still)
    given: dict[str, Any] = {"centred_clipping": {"radius": 120.0}, "geometric_median": {"nu": 0.4}}.get(
        name.split("+")[-1], {}
    )
    assert np.allclose(combine(name, x * 4, f, **given), base * 4, rtol=0, atol=4 * still)


@pytest.mark.parametrize("far", [1e6, 1e30, 3e38])
@pytest.mark.parametrize(
    "name",
    [
        *(name for name in ROBUST if name not in VOTING),
        "nnm+krum",
        "nnm+trimmed_mean",
        "arc+geometric_median",
        "norm_bound+median",
    ],
)
def test_outliers_stay_outside(name: str, far: float) -> None:
    rng = np.random.default_rng(1)
    honest = rng.standard_normal((9, 40)).astype(np.float32)
    lying = np.full((2, 40), far, dtype=np.float32)
    lying[1] *= rng.choice([-1.0, 1.0], 40).astype(np.float32)
    got = combine(name, np.vstack([lying, honest]), 2)
    if name.split("+")[-1] in ("median", "trimmed_mean", "meamed", "bulyan", "krum"):
        assert np.all(got >= honest.min(axis=0))
        assert np.all(got <= honest.max(axis=0))
    diameter = max(np.linalg.norm(a - b) for a in honest for b in honest)
    reach = diameter if "centred_clipping" not in name else 30.0 * 2  # two of eleven differences cut to 30, 20 times
    assert max(np.linalg.norm(got - row) for row in honest) <= reach


def test_a_vote_moves_by_its_step_and_ignores_sizes() -> None:
    """Columns: two against one; one for, one against, one silent; all against; nobody votes (-0 is no vote)."""
    x = np.array([[1, 2, -1e-30, 0.0], [3, -1, -5, -0.0], [-1e30, 0, -2, 0.0]], dtype=np.float32)
    for order in ([0, 1, 2], [2, 0, 1]):
        assert combine("sign_majority", x[order], 1, step=0.25).tolist() == [0.25, 0, -0.25, 0]
    rng = np.random.default_rng(0)
    large = rng.standard_normal((15, 200_001)).astype(np.float32)
    want = 2.0 * np.sign(np.sign(large.astype(np.float64)).sum(axis=0))
    assert np.array_equal(combine("sign_majority", large, 7, step=2.0), want)


def test_average_is_moved_by_one_liar() -> None:
    """Control: what the robust rules withstand does break the average."""
    x = np.vstack([np.zeros((7, 3)), np.full((1, 3), 8e6)]).astype(np.float32)
    assert combine("average", x).tolist() == [1e6] * 3


def test_minus_zero_does_not_betray_the_order() -> None:
    x = np.array([[0.0], [-0.0], [-0.0]], dtype=np.float32)
    for name in ("median", "trimmed_mean", "meamed"):
        assert {combine(name, x[list(p)], 1).tobytes() for p in ([0, 1, 2], [1, 0, 2], [1, 2, 0])} == {bytes(8)}
    many = np.repeat(x, 33, axis=0)
    assert {
        combine(name, many[order], 1).tobytes() for name in ("median", "trimmed_mean") for order in (..., slice(None, None, -1))
    } == {bytes(8)}


def test_by_hand() -> None:
    # Columns: (1, 2, 6) and (0, 0, 9). Weights 1, 1, 2: (1 + 2 + 12) / 4 = 3.75; (0 + 0 + 18) / 4 = 4.5.
    x = np.array([[1, 0], [2, 0], [6, 9]], dtype=np.float32)
    assert combine("average", x, 0, [1, 1, 2]).tolist() == [3.75, 4.5]
    assert combine("median", x).tolist() == [2, 0]
    assert combine("trimmed_mean", x, 1).tolist() == [2, 0]
    # All three point up; (0, 0, 9) has one vote for up and none against.
    assert combine("sign_majority", x, step=0.5).tolist() == [0.5, 0.5]
    # Median 2: 1 and 2 are nearer than 6. Median 0: 0 and 0.
    assert combine("meamed", x, 1).tolist() == [1.5, 0]
    # Squared distances: 0-1: 1, 0-2: 25 + 81 = 106, 1-2: 16 + 81 = 97. One nearest neighbour each: 1, 1, 97; first wins.
    assert combine("krum", x, 0).tolist() == [1, 0]
    # The closest pair is 0, 1.
    assert combine("mda", x, 1).tolist() == [1.5, 0]
    # Two nearest of 2 are 2 and 1; trusting c002, 6 and 2.
    assert combine("monna", x, 1, trusted="c001").tolist() == [1.5, 0]
    assert combine("monna", x, 1, trusted="c002").tolist() == [4, 4.5]
    # From 0 with radius 1: differences (1, 0), (2, 0) -> (1, 0), (6, 9) -> (6, 9) / sqrt(117). Mean of the three.
    step = [(2 + 6 / 117**0.5) / 3, 3 / 117**0.5]
    assert np.allclose(combine("centred_clipping", x, 1, radius=1.0, iterations=1), step)
    # Clipped to norm 1: (1, 0), (1, 0), (6, 9) / sqrt(117): the mean is the same.
    assert np.allclose(combine("clipping+average", x, 0, clip_to=1.0), step)
    # arc with f = 1 of 3: floor(2 * 2 / 3) = 1 longest is cut to the next length, 2: (6, 9) * 2 / sqrt(117).
    assert np.allclose(combine("arc+median", x, 1), [6 * 2 / 117**0.5, 0], atol=1e-7)
    # norm_bound: median length 2.
    assert np.allclose(combine("norm_bound+average", x), [(3 + 12 / 117**0.5) / 3, 6 / 117**0.5])
    # nnm with f = 1: 0 and 1 become (1.5, 0); 2 becomes the mean of 1 and 2: (4, 4.5). Median (1.5, 0).
    assert combine("nnm+median", x, 1).tolist() == [1.5, 0]
    assert np.allclose(combine("nnm+average", x), x.mean(axis=0))


def test_robust_rules_ignore_weights_and_average_does_not() -> None:
    x = np.random.default_rng(2).standard_normal((9, 5)).astype(np.float32)
    loud = [1.0] * 8 + [1000.0]
    for name in [*ROBUST, "nnm+median", "nnm+average"]:
        f = 0 if name.endswith("average") else 1
        assert np.array_equal(combine(name, x, f, loud), combine(name, x, f))
    for name in ("average", "clipping+average"):
        assert not np.allclose(combine(name, x, 0, loud), combine(name, x))


def test_blocks_and_scales_make_no_difference() -> None:
    """A model of several column blocks equals its parts, and scales equal scaled rows."""
    rng = np.random.default_rng(3)
    for n in (11, 80):
        x = rng.standard_normal((n, 70_000)).astype(np.float32)
        scales = [float(2.0 ** rng.integers(-2, 3)) for _ in range(n)]  # powers of two: exact
        scaled = (x * np.array(scales, dtype=np.float32)[:, None]).astype(np.float32)
        for name in set(RULES) - {"smea" if n > 20 else ""}:
            f = 0 if name == "average" else 2
            whole = combine(name, x, f, scales=scales)
            assert whole.tobytes() == combine(name, scaled, f).tobytes(), name
            if name in ("average", "median", "trimmed_mean", "meamed"):
                parts = [combine(name, scaled[:, lo : lo + 999], f) for lo in range(0, 70_000, 999)]
                assert whole.tobytes() == np.concatenate(parts).tobytes(), name


def test_buckets_are_drawn_anew_and_repeat_with_their_generator() -> None:
    x = np.random.default_rng(4).standard_normal((12, 3)).astype(np.float32)
    rows = VectorRows([Vector.of(row) for row in x])

    def once(seed: int) -> bytes:
        sink = MemorySpace().sink(3, "<f8")
        recipe("bucketing+median").aggregate(rows, Round(1, rng=np.random.default_rng(seed)), sink)
        out: bytes = sink.finish().whole().tobytes()
        return out

    assert once(1) == once(1)
    assert len({once(seed) for seed in range(20)}) > 10


def test_near_ties_go_to_the_first() -> None:
    assert first_smallest(np.array([1.0 + 1e-12, 1.0, 2.0])) == 0
    assert first_smallest(np.array([1.0 + 1e-6, 1.0, 2.0])) == 1
    assert smallest(np.array([3.0, 1.0 + 1e-12, 0.0, 1.0]), 2).tolist() == [1, 2]
    assert smallest(np.zeros(5), 2).tolist() == [0, 1]
    assert smallest(np.array([2.0, 1.0]), 5).tolist() == [0, 1]
