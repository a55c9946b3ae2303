"""The compiled kernels against the NumPy code beside them, and against float64, on what could go wrong in C."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgehold.core import kernels
from edgehold.core.vectors import Bytes, MemorySpace, Part, Vector
from edgehold.defenses.baselines.rules import Round, VectorRows, recipe
from edgehold.defenses.baselines.rules.coordinatewise import mean_around_median
from edgehold.defenses.baselines.rules.gram import SHORT, majority_gram, squared_distances
from edgehold.defenses.baselines.rules.ordering import comparisons
from edgehold.defenses.baselines.rules.rows import MixedRows

Matrix = NDArray[np.float32]
WORST = 66 * 2.0**-24
"""What a lane can lose of 64 products, and two differences by rounding, as a share of the product of two norms: below 4e-6."""


@pytest.fixture(scope="module", autouse=True)
def arithmetic() -> str:
    """Once, not twice: these tests compare the two themselves."""
    if kernels.loaded() is None:
        pytest.skip("the kernels are not compiled here: no C compiler when the package was installed")
    return "kernels"


def compiled() -> kernels.Kernels:
    found = kernels.loaded()
    assert found is not None
    return found


def without(call: Callable[[], bytes]) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kernels.SWITCH, "off")
        assert kernels.loaded() is None
        return call()


def combine(name: str, rows: VectorRows, f: int) -> bytes:
    sink = MemorySpace().sink(rows.d, "<f8")
    recipe(name).aggregate(rows, Round(f), sink)
    return sink.finish().whole().tobytes()


def matrix(n: int, d: int, seed: int = 0) -> Matrix:
    """Ties, zeros of both signs and huge spans of size among ordinary numbers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d), dtype=np.float32)
    x[:, ::7] = np.round(x[:, ::7])
    x[:, 3::11] *= np.float32(1e30)
    x[:, 5::13] = np.where(rng.random(x[:, 5::13].shape) < 0.5, np.float32(0.0), np.float32(-0.0))
    return x


@pytest.mark.parametrize("n", [1, 2, 3, 8, 23, 24, 25, 64, 65, 128, 129, 512, 513])
@pytest.mark.parametrize("rule", ["average", "median", "trimmed_mean", "meamed"])
def test_rules_by_coordinate_give_the_bits_of_numpy(rule: str, n: int) -> None:
    """Both sides of every limit: network or sort, here and in NumPy; whole and broken steps of columns."""
    f = 0 if rule == "average" else (n - 1) // 3
    for d in (1, 15, 16, 17, 31, 32, 33, 256, 257, 1000):
        rows = VectorRows([Vector.of(row) for row in matrix(n, d, n)])
        assert combine(rule, rows, f) == without(lambda rows=rows: combine(rule, rows, f)), d  # type: ignore[misc]


@pytest.mark.parametrize("n", [5, 24, 130])
def test_a_window_of_less_than_half_comes_back_to_its_first_slot(n: int) -> None:
    """No rule asks for it, but kernel and NumPy promise it."""
    rows = VectorRows([Vector.of(row) for row in matrix(n, 97, n)])

    def nearest(keep: int) -> bytes:
        sink = MemorySpace().sink(97, "<f8")
        mean_around_median(rows, keep, sink)
        return sink.finish().whole().tobytes()

    for keep in (1, 2, n // 3):
        assert nearest(keep) == without(partial(nearest, keep)), keep


def test_every_instruction_set_gives_the_same() -> None:
    """Sorts and sums bit for bit; products and mixtures within rounding. Only the widest runs in the other tests."""
    rng = np.random.default_rng(0)
    for n in (1, 5, 6, 23, 30):
        x = matrix(n, 777, n)
        shares, belongs = rng.random(n), rng.random((7, n)) < 0.5
        network = np.array([pair[:2] for pair in comparisons(n, tuple(range(n)))], dtype=np.int32).reshape(-1, 2)
        ordinary = rng.standard_normal((n, 777)).astype(np.float32)
        about = ordinary.astype(np.float64) - ordinary[0].astype(np.float64)
        norms, scale = np.linalg.norm(about, axis=1), rng.random(7)
        first = compiled()
        for other in kernels.every():
            for lo, hi, keep in ((0, n, 0), ((n - 1) // 2, n // 2 + 1, 0), (0, 0, n - n // 3)):
                got = other.ordered_mean(list(x), network, lo, hi, keep)
                assert got.tobytes() == first.ordered_mean(list(x), network, lo, hi, keep).tobytes(), other.name
            assert other.combined(list(x), shares).tobytes() == first.combined(list(x), shares).tobytes(), other.name
            error = np.abs(other.gram(list(ordinary), 0, origin=False) - about @ about.T)
            assert (error <= WORST * np.outer(norms, norms)).all(), other.name
            for want, write in (
                (belongs * scale[:, None], partial(other.subset_sums, list(ordinary), kernels.subsets(belongs), scale)),
                (belongs * shares, partial(other.mixed, list(ordinary), belongs * shares)),
            ):
                out = np.empty((7, 777), dtype=np.float32)
                write(list(out))
                assert np.allclose(out, want @ ordinary.astype(np.float64), rtol=0, atol=1e-5), other.name
    assert {one.name for one in kernels.every()} >= {"plain"}


def test_rows_at_any_address() -> None:
    """Spools hold rows behind headers of any length."""
    x = matrix(9, 1000)
    apart = [Vector(Part(Bytes(b"x" * (1 + i) + row.tobytes()), 1 + i)) for i, row in enumerate(x)]
    for rule in ("median", "average", "multi_krum", "nnm+trimmed_mean"):
        f = 0 if rule == "average" else 2
        assert combine(rule, VectorRows(apart), f) == combine(rule, VectorRows([Vector.of(row) for row in x]), f)


@pytest.mark.parametrize("n", [1, 2, 4, 5, 6, 20, 21, 22, 23, 50])
@pytest.mark.parametrize("d", [1, 1023, 1024, 1025, 5000])
def test_products_equal_float64_within_the_bound(n: int, d: int) -> None:
    x = np.random.default_rng(n * d).standard_normal((n, d)).astype(np.float32)
    for centre in {0, n - 1}:
        about = np.vstack([x, np.zeros((1, d), np.float32)]).astype(np.float64) - x[centre].astype(np.float64)
        want, norms = about @ about.T, np.linalg.norm(about, axis=1)
        got = compiled().gram(list(x), centre, origin=True)
        assert (got == got.T).all()
        assert (np.abs(got - want) <= WORST * np.outer(norms, norms)).all()


@pytest.mark.parametrize("size", [1.0, 1e30, 3e38, 1e-30, 1e-38])
def test_products_of_huge_and_tiny_numbers(size: float) -> None:
    """Neither overflow nor vanish; a difference of opposite numbers may be larger than any float32."""
    x = (np.random.default_rng(1).uniform(-1, 1, (6, 3000)) * size).astype(np.float32)
    x[3] = -x[0]
    about = x.astype(np.float64) - x[0].astype(np.float64)
    want, norms = about @ about.T, np.linalg.norm(about, axis=1)
    got = compiled().gram(list(x), 0, origin=False)
    assert np.isfinite(got).all()
    assert (np.abs(got - want) <= WORST * np.outer(norms, norms)).all()


def test_worst_case_of_rounding_is_within_the_bound() -> None:
    """Constant rows make every sum round the same way: nothing averages out."""
    x = np.repeat(np.array([[0.0], [0.1], [1 / 3], [0.7], [np.pi]], np.float32), 200_000, axis=1)
    about = x.astype(np.float64)
    want, norms = about @ about.T, np.linalg.norm(about, axis=1)
    error = np.abs(compiled().gram(list(x), 0, origin=False) - want)
    assert (error <= WORST * np.outer(norms, norms)).all()
    assert error.max() > 1e-8 * want.max(), "control: this is a case that rounds"


def test_long_updates_have_exact_ties_and_no_order() -> None:
    """Equal rows are exactly equally far, wherever they stand; another order of the rows gives the same bits."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((11, SHORT + 777), dtype=np.float32)
    x[7], x[9] = x[2], x[2]
    far = squared_distances(majority_gram(VectorRows([Vector.of(row) for row in x]), 11)[:11, :11])
    assert far[2, 7] == far[2, 9] == far[7, 9] == 0.0
    assert (far[2] == far[7]).all()
    order = rng.permutation(11)
    again = squared_distances(majority_gram(VectorRows([Vector.of(row) for row in x[order]]), 11)[:11, :11])
    assert (again == far[np.ix_(order, order)]).all()


@pytest.mark.parametrize("far", [1e6, 1e30, 3e38])
def test_huge_updates_do_not_blind_the_distances_of_long_ones(far: float) -> None:
    rng = np.random.default_rng(4)
    honest = (1e4 * rng.standard_normal(SHORT + 5) + rng.standard_normal((7, SHORT + 5))).astype(np.float32)
    x = np.insert(honest, [0, 0, 7], np.float32(far), axis=0)
    keep = [2, 3, 4, 5, 6, 7, 8]
    got = squared_distances(majority_gram(VectorRows([Vector.of(row) for row in x]), len(x))[:10, :10])
    wide = honest.astype(np.float64)
    want = np.array([[((a - b) ** 2).sum() for b in wide] for a in wide])
    assert np.allclose(got[np.ix_(keep, keep)], want, rtol=1e-6, atol=0)


def test_a_sample_that_misleads_is_found_out() -> None:
    """Nobody differs in the columns looked at first, so that the first row, a liar far away, becomes the centre at first."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((9, SHORT + 5), dtype=np.float32)
    x[0] *= np.float32(1e6)
    for place in range(0, SHORT + 5, (SHORT + 5) // 8):
        x[:, place : place + 512] = 0.0
    wide = x[1:].astype(np.float64)
    want = np.array([[((a - b) ** 2).sum() for b in wide] for a in wide])
    blind = squared_distances(compiled().gram(list(x), 0, origin=False))[1:, 1:]
    assert not np.allclose(blind, want, rtol=1e-3, atol=0), "control: about the liar the rest cannot be told apart"
    got = squared_distances(majority_gram(VectorRows([Vector.of(row) for row in x]), 9)[:9, :9])[1:, 1:]
    assert np.allclose(got, want, rtol=1e-6, atol=0)


def test_long_multi_krum_keeps_no_liar_where_float32_keeps_many() -> None:
    """60 honest updates with a large common part, 40 liars shifted a little; control: the usual float32 expansion."""
    rng = np.random.default_rng(0)
    x = (1e4 * rng.standard_normal(SHORT + 1) + 0.005 * rng.standard_normal((100, SHORT + 1))).astype(np.float32)
    x[60:] += np.float32(0.05)
    square = (x * x).sum(axis=1)
    blind = np.sort(square[:, None] + square[None, :] - 2 * (x @ x.T), axis=1)[:, 1:59].sum(axis=1)
    assert (np.argsort(blind, kind="stable")[:60] >= 60).sum() > 10, "control: the naive product is blinded"
    got = np.frombuffer(combine("multi_krum", VectorRows([Vector.of(row) for row in x]), 40))
    assert np.allclose(got, x[:60].astype(np.float64).mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 4), (5, 5), (6, 6), (7, 11), (20, 20), (13, 50)])
def test_mixing_equals_float64(m: int, n: int) -> None:
    rng = np.random.default_rng(m * n)
    for d in (1, 15, 16, 17, 256, 300):
        x = rng.standard_normal((n, d)).astype(np.float32)
        rows = VectorRows([Vector.of(row) for row in x])
        belongs = rng.random((m, n)) < 0.6
        belongs[:, 0] = True
        for mix in (rng.standard_normal((m, n)), belongs / belongs.sum(axis=1, keepdims=True)):
            got = np.array(MixedRows(rows, mix).views(0, d))
            assert np.allclose(got, mix @ x.astype(np.float64), rtol=0, atol=2**-23 * np.abs(mix).sum(axis=1).max() * 5)
            once = without(lambda rows=rows, mix=mix, d=d: np.array(MixedRows(rows, mix).views(0, d)).tobytes())  # type: ignore[misc]
            assert np.allclose(got.reshape(-1), np.frombuffer(once, np.float32), rtol=2**-22, atol=1e-12)


def test_rows_that_kernels_cannot_read_are_refused() -> None:
    good = np.zeros(8, np.float32)
    others: tuple[Any, ...] = (np.zeros(8), np.zeros(7, np.float32), np.zeros(16, np.float32)[::2])
    for bad in others:
        with pytest.raises(ValueError, match="contiguous float32 rows of one length"):
            compiled().combined([good, bad], np.ones(2))
