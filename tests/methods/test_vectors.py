"""Norms that repeat and refuse; sinks and rows that notice wrong sizes."""

import math

import numpy as np
import pytest

from edgehold.core.errors import NotFinite, WrongShape
from edgehold.core.vectors import MemorySpace, Vector, finite_norm
from edgehold.defenses.baselines.rules import VectorRows


def test_norm_by_hand_and_at_the_ends_of_the_range() -> None:
    assert finite_norm(Vector.of(np.array([3, 4], np.float32))) == 5
    assert finite_norm(Vector.of(np.array([], np.float32))) == 0
    for size in (3e38, 1e30, 1e-30, 1e-44):
        values = np.array([size, -size] * 20_000, np.float32)
        assert finite_norm(Vector.of(values)) == pytest.approx(200 * float(values[0]), rel=1e-12)


def test_norm_equals_exact_sum_over_many_blocks() -> None:
    values = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    assert finite_norm(Vector.of(values)) == pytest.approx(math.sqrt(math.fsum(float(v) ** 2 for v in values)), rel=1e-13)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 16_383, 16_384, 49_999])
def test_norm_names_the_first_bad_value(bad: float, at: int) -> None:
    values = np.zeros(50_000, np.float32)
    values[at:] = bad
    with pytest.raises(NotFinite, match=f"value {at} is"):
        finite_norm(Vector.of(values))


def test_sinks_take_exactly_their_size() -> None:
    sink = MemorySpace().sink(3)
    sink.write(np.zeros(2))
    with pytest.raises(WrongShape, match="2 of 3"):
        sink.finish()
    with pytest.raises(WrongShape, match="4 values"):
        sink.write(np.zeros(2))


def test_rows_of_different_lengths_are_refused() -> None:
    one, two = Vector.of(np.zeros(1, np.float32)), Vector.of(np.zeros(2, np.float32))
    with pytest.raises(WrongShape):
        VectorRows([one, two])
    with pytest.raises(WrongShape):
        VectorRows([one, one], [1.0])
