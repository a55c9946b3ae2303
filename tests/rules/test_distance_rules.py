"""Distance rules and pre-steps against slow versions that work on the updates themselves, in extended precision."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehold.core.vectors import MemorySpace, Vector
from edgehold.defenses.baselines.rules import Round, VectorRows, recipe
from edgehold.defenses.baselines.rules.choice import smallest
from edgehold.defenses.baselines.rules.cloud import Basis
from edgehold.defenses.baselines.rules.diameter import tightest
from edgehold.defenses.baselines.rules.gram import squared_distances

Wide = Any  # np.longdouble arrays
IDS = [f"c{i:02}" for i in range(40)]
GIVEN: dict[str, Any] = {"radius": 3.0, "iterations": 4, "trusted": "c01", "clip_to": 2.0}
BY_RULE = {"centred_clipping": ("radius", "iterations"), "geometric_median": ("iterations",), "monna": ("trusted",)}


def wide(x: Wide) -> Wide:
    return np.asarray(x, dtype=np.longdouble)


def squares(x: Wide) -> Wide:
    return ((x[:, None, :] - x[None, :, :]) ** 2).sum(axis=2)


def norm(x: Wide) -> Wide:
    return np.sqrt((x**2).sum(axis=-1))


def scores(x: Wide, f: int) -> Wide:
    near = np.sort(squares(x), axis=1)[:, 1:]
    return near[:, : max(1, len(x) - f - 2)].sum(axis=1)


def first(values: Wide) -> int:
    return int(smallest(values, 1)[0])


def slow_krum(x: Wide, f: int) -> Wide:
    return x[first(scores(x, f))]


def slow_multi_krum(x: Wide, f: int) -> Wide:
    return x[smallest(scores(x, f), len(x) - f)].mean(axis=0)


def slow_bulyan(x: Wide, f: int) -> Wide:
    left, taken = list(range(len(x))), []
    for _ in range(len(x) - 2 * f):
        best = first(scores(x[left], f)) if len(left) > 1 else 0
        taken.append(left.pop(best))
    chosen = np.sort(x[sorted(taken)].astype(np.float32).astype(np.float64), axis=0)
    middle = (chosen[(len(chosen) - 1) // 2] + chosen[len(chosen) // 2]) / 2
    order = np.argsort(np.abs(chosen - middle), axis=0, kind="stable")[: len(chosen) - 2 * f]
    return np.take_along_axis(chosen, order, axis=0).mean(axis=0)


def slow_geometric_median(x: Wide, f: int) -> Wide:
    at = x[first(np.sqrt(squares(x)).sum(axis=1))]
    for _ in range(GIVEN["iterations"]):
        pull = 1 / np.maximum(norm(x - at), 0.1)
        at = (pull[:, None] * x).sum(axis=0) / pull.sum()
    return at


def slow_centred_clipping(x: Wide, f: int) -> Wide:
    at = np.zeros_like(x[0])
    for _ in range(GIVEN["iterations"]):
        away = norm(x - at)
        at = at + ((x - at) * np.minimum(1, GIVEN["radius"] / np.maximum(away, 1e-300))[:, None]).mean(axis=0)
    return at


def slow_mda(x: Wide, f: int) -> Wide:
    far = squares(x)
    return x[list(enumerated(far, f))].mean(axis=0)


def enumerated(far: Wide, f: int) -> tuple[int, ...]:
    """The first subset, in lexicographic order, whose diameter equals the smallest."""
    sets = list(combinations(range(len(far)), len(far) - f))
    sizes = [max((far[i, j] for i, j in combinations(kept, 2)), default=0) for kept in sets]
    return next(kept for kept, size in zip(sets, sizes, strict=True) if size <= min(sizes) * (1 + 1e-9))


def slow_monna(x: Wide, f: int) -> Wide:
    return x[smallest(squares(x)[1], len(x) - f)].mean(axis=0)


def spectrum(x: Wide, trust: Wide) -> tuple[float, Wide, Wide]:
    mean = (trust[:, None] * x).sum(axis=0) / trust.sum()
    centred = (x - mean).astype(np.float64)
    values, vectors = np.linalg.eigh((centred * np.asarray(trust / trust.sum(), dtype=np.float64)[:, None]).T @ centred)
    return float(values[-1]), (centred @ vectors[:, -1]) ** 2, mean


def slow_caf(x: Wide, f: int) -> Wide:
    trust, least, best = np.ones(len(x)), np.inf, x.mean(axis=0)
    while trust.sum() > len(x) - 2 * f or least == np.inf:
        value, along, mean = spectrum(x, trust)
        if value < least:
            least, best = value, mean
        if f == 0:
            break
        along = np.where(trust > 0, along, 0)
        if along.max() <= 1e-30 * (x**2).max():
            break
        trust = trust * (1 - along / along.max())
        trust[np.argmax(along)] = 0
    return best


def slow_dnc(x: Wide, f: int) -> Wide:
    for _ in range(f):
        along = spectrum(x, np.ones(len(x)))[1]
        x = np.delete(x, np.flatnonzero(along >= along.max() * (1 - 1e-9))[-1], axis=0)  # of equals the last
    return x.mean(axis=0)


def slow_smea(x: Wide, f: int) -> Wide:
    sets = [list(kept) for kept in combinations(range(len(x)), len(x) - f)]
    spreads = np.array([spectrum(x[kept], np.ones(len(kept)))[0] for kept in sets])
    return x[sets[first(spreads)]].mean(axis=0)


def slow_trimmed_mean(x: Wide, f: int) -> Wide:
    return np.sort(x, axis=0)[f : len(x) - f].mean(axis=0)


def slow_nnm(x: Wide, f: int) -> Wide:
    return np.stack([x[smallest(row, len(x) - f)].mean(axis=0) for row in squares(x)])


def cut(x: Wide, most: Wide) -> Wide:
    return np.stack([row * (most / norm(row)) if norm(row) > most else row for row in x])


def slow_clipping(x: Wide, f: int) -> Wide:
    return cut(x, GIVEN["clip_to"])


def slow_norm_bound(x: Wide, f: int) -> Wide:
    return cut(x, np.median(norm(x)))


def slow_arc(x: Wide, f: int) -> Wide:
    longest = int(np.floor(2 * f * (len(x) - f) / len(x)))
    return cut(x, np.sort(norm(x))[len(x) - longest - 1])


def slow_bucketing(x: Wide, f: int) -> Wide:
    order = np.random.default_rng(9).permutation(len(x))
    return np.stack([x[order[i : i + 2]].mean(axis=0) for i in range(0, len(x), 2)])


SLOW = {name.removeprefix("slow_"): value for name, value in globals().items() if name.startswith("slow_")}
RULE_NAMES = ["krum", "multi_krum", "bulyan", "geometric_median", "centred_clipping", "mda", "monna", "caf", "dnc", "smea"]
STEP_NAMES = ["nnm", "bucketing", "clipping", "arc", "norm_bound"]
ALL = [
    *RULE_NAMES,
    *(f"{a}+{b}" for a in STEP_NAMES for b in [*RULE_NAMES, "trimmed_mean"] if (a, b) != ("bucketing", "monna")),
    "arc+nnm+trimmed_mean",
    "bucketing+arc+krum",
    "norm_bound+nnm+geometric_median",
    "nnm+bucketing+mda",
]


def fast(name: str, x: Any, f: int, **given: Any) -> Any:
    last = name.split("+")[-1]
    options = {key: GIVEN[key] for key in BY_RULE.get(last, ())} | given
    if "clipping" in name.split("+")[:-1]:
        options["clip_to"] = GIVEN["clip_to"]
    sink = MemorySpace().sink(x.shape[1], "<f8")
    rows = VectorRows([Vector.of(row) for row in x])
    recipe(name, options).aggregate(rows, Round(f, (), IDS[: len(x)], rng=np.random.default_rng(9)), sink)
    return sink.finish().whole()


@st.composite
def cases(draw: st.DrawFn, name: str) -> tuple[Any, int]:
    """Small whole numbers (ties) or any; rows or everything at 2^100 or 2^-100 in places; n and f that are allowed."""
    d = draw(st.integers(1, 5))
    n = draw(st.integers(3, 18 if "bucketing" in name else 9))
    points = -(-n // 2) if "bucketing" in name else n
    most = (points - 3) // 4 if "bulyan" in name else (points - 3) // 2 if "krum" in name else (points - 1) // 2
    f = draw(st.integers(0, max(0, most)))
    if points < 3:
        n, f = 7, 0
    # Where directions must be unique, drawn whole numbers would leave them open.
    continuous = not {"caf", "dnc", "smea"}.isdisjoint(name.split("+")) or draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    x = rng.standard_normal((n, d)) if continuous else rng.integers(-2, 3, (n, d)).astype(float)
    x = x * draw(st.sampled_from([1.0, 1.0, 2.0**100, 2.0**-100])) if "+" not in name else x
    if f and draw(st.booleans()):
        x[draw(st.integers(0, n - f)) :][:f] *= draw(st.sampled_from([1e3, 1e6, 2.0**20]))
    return x.astype(np.float32), f


@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_fast_equals_slow(name: str, data: st.DataObject) -> None:
    x, f = data.draw(cases(name))
    want, points = None, wide(x)
    for part in name.split("+"):
        points = SLOW[part](points, f)
        want = points
    got = fast(name, x, f)
    near = 1e-6 if name.endswith(("trimmed_mean", "bulyan")) else 1e-8  # those see points rounded to float32
    assert np.all(np.abs(got - np.asarray(want, dtype=np.float64)) <= near * np.abs(x).max()), (x, f)


@pytest.mark.parametrize("name", ["geometric_median", "centred_clipping", "mda", "monna", "caf", "dnc", "smea", "nnm+mda"])
def test_one_client_and_one_coordinate(name: str) -> None:
    one = np.array([[0.5]], dtype=np.float32)
    assert fast(name, one, 0, **({"trusted": "c00"} if name == "monna" else {})).tolist() == [0.5]


@given(st.integers(1, 11), st.integers(0, 5), st.integers(0, 1 << 30), st.booleans())
@settings(deadline=None, max_examples=300)
def test_tightest_set_equals_enumeration(n: int, f: int, seed: int, ties: bool) -> None:
    f = min(f, (n - 1) // 2)
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (n, 2)).astype(float) if ties else rng.standard_normal((n, 3))
    far = np.asarray(squares(x), dtype=np.float64)
    assert tightest(far, f) == list(enumerated(far, f))


def test_tightest_set_of_many() -> None:
    """Beyond enumeration: planted far points are exactly the ones left out, and no swap makes the set tighter."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 50))
    x[::5] += 4 * rng.standard_normal((20, 50))
    far = np.asarray(squares(x), dtype=np.float64)
    kept = tightest(far, 20)
    assert kept == [i for i in range(100) if i % 5]
    x[::5] = rng.standard_normal((20, 50))  # nothing planted: only local optimality can be checked
    far = np.asarray(squares(x), dtype=np.float64)
    kept = tightest(far, 20)
    size = far[np.ix_(kept, kept)].max()
    for out in kept:
        others = [i for i in kept if i != out]
        for new in set(range(100)) - set(kept):
            assert max(far[np.ix_(others, others)].max(), far[new, others].max()) >= size


def test_previous_result_is_where_clipping_starts() -> None:
    # From (10, 0) with radius 1: differences (-9, 0) -> (-1, 0), (1, 0), (0, 1): the mean is 0, 1/3.
    x = np.array([[1, 0], [11, 0], [10, 1]], dtype=np.float32)
    sink = MemorySpace().sink(2, "<f8")
    before = Vector.of(np.array([10, 0], dtype=np.float32))
    now = Round(1, previous=before)
    recipe("centred_clipping", {"radius": 1.0}).aggregate(VectorRows([Vector.of(row) for row in x]), now, sink)
    assert np.allclose(sink.finish().whole(), [10, 1 / 3])


# What float32 does to distances, and ours must not do.


def naive_multi_krum(x: Any, f: int) -> list[int]:
    """Control: the usual expansion |a|^2 + |b|^2 - 2ab in float32."""
    square = (x * x).sum(axis=1)
    far = square[:, None] + square[None, :] - 2 * (x @ x.T)
    near = np.sort(far, axis=1)[:, 1:]
    return np.argsort(near[:, : len(x) - f - 2].sum(axis=1), kind="stable")[: len(x) - f].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("shift", [1e4, 1e6])
def test_liars_cannot_hide_in_rounding(shift: float) -> None:
    """60 honest updates share a large common part, 40 liars are shifted a little: float32 products cannot tell them apart."""
    rng = np.random.default_rng(0)
    x = (shift * rng.standard_normal(500) + 0.01 * shift / 1e4 * rng.standard_normal((100, 500))).astype(np.float32)
    x[60:] += np.float32(0.1 * shift / 1e4)
    kept = naive_multi_krum(x, 40)
    assert sum(i >= 60 for i in kept) > 10, "control: the naive product is blinded"
    got = fast("multi_krum", x, 40)
    assert np.allclose(got, x[:60].astype(np.float64).mean(axis=0), rtol=1e-12)


def test_huge_updates_do_not_blind_the_distances_of_the_rest() -> None:
    rng = np.random.default_rng(1)
    honest = rng.standard_normal((7, 300)).astype(np.float32)
    want = squares(wide(honest))
    for far in (1e6, 1e30, 3e38):
        for at in (0, 7):
            x = np.insert(honest, [at, at, at], np.float32(far), axis=0)
            gram = Basis(VectorRows([Vector.of(row) for row in x])).gram
            keep = [i for i in range(10) if not at <= i < at + 3]
            got = squared_distances(gram)[np.ix_(keep, keep)]
            assert np.allclose(got, np.asarray(want, dtype=np.float64), rtol=1e-9, atol=0)


def test_colluding_far_cluster_and_common_part() -> None:
    """Equal liars far away are equally far, and a common part a million times the spread costs no accuracy."""
    rng = np.random.default_rng(2)
    x = (rng.standard_normal(200) * 1e6 + rng.standard_normal((9, 200))).astype(np.float32)
    x[7:] = 1e12
    got = squared_distances(Basis(VectorRows([Vector.of(row) for row in x])).gram[:9, :9])
    want = np.asarray(squares(wide(x)), dtype=np.float64)
    assert np.allclose(got[:7, :7], want[:7, :7], rtol=1e-9, atol=0)
    assert got[7, 8] == 0.0
