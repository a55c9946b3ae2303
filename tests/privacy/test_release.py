"""Vectors on the noise's grid: what rounds, what is cut, what is charged."""

import numpy as np
import pytest
from tests.support.fixed_noise import FixedNoise, Silence

from edgehold.core.privacy import accounting, gaussian
from edgehold.core.privacy.release import GRID, clipped, grid_shift, noised, whole_vector


def test_without_noise_values_come_back_within_half_a_step() -> None:
    values = np.random.default_rng(1).normal(size=1000) * 3
    found = noised(values, 2.0, Silence())
    assert 0 < np.abs(found - values).max() <= 0.5 * GRID * 2.0
    steps = found / (GRID * 2.0)
    assert (steps == np.rint(steps)).all()


def test_the_deviation_is_sigma_and_neighbours_get_the_same_noise_elsewhere() -> None:
    # 100,000 draws: the estimate of the deviation is off by 0.22 %; 1.5 % is 6.7 deviations (false alarm 2e-11).
    found = noised(np.full(100_000, 7.0), 0.25, FixedNoise(3)) - 7.0
    assert float(found.std()) == pytest.approx(0.25, rel=0.015)
    assert abs(float(found.mean())) < 0.25 * 6.7 / 100_000**0.5


def test_values_beyond_the_grid_are_cut_and_not_wrapped() -> None:
    found = noised(np.array([1e300, -1e300, 0.0]), 1.0, Silence())
    assert found.tolist() == [2.0**62 * GRID, -(2.0**62) * GRID, 0.0]


def test_clipping_is_projection_and_what_is_no_number_counts_as_nothing() -> None:
    assert clipped(np.array([3.0, 4.0]), 1.0) == pytest.approx([0.6, 0.8])
    assert clipped(np.array([0.3, 0.4]), 1.0).tolist() == [0.3, 0.4]
    for bad in (np.nan, np.inf):
        assert clipped(np.array([bad, 1.0]), 1.0).tolist() == [0.0, 0.0]


def test_two_whole_vectors_are_as_far_apart_as_is_charged() -> None:
    size, clip, sigma = 400, 0.5, 2.0
    event = whole_vector(size, clip, sigma)
    one = np.zeros(size)
    one[0] = 9.0
    apart = noised(clipped(one, clip), sigma, Silence()) - noised(clipped(-one, clip), sigma, Silence())
    assert float(np.linalg.norm(apart)) == pytest.approx(1.0)
    assert float(np.linalg.norm(apart)) <= event.sensitivity < 1.0 + 2 * grid_shift(size) * sigma + 1e-9
    # mu = 1 / 2: epsilon 1.99 at 1e-5.
    assert gaussian.epsilon_of(accounting.squared_mu(event) ** 0.5, 1e-5) == pytest.approx(1.99, abs=0.01)
