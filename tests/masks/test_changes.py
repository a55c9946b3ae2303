"""Changes of a model on the grid of a masked sum: within the norm whatever rounding does, without bias where it is coarse."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehold.core.errors import NotFinite, OutsideLaw, WrongShape
from edgehold.core.masks.sizing import sized
from edgehold.core.masks.terms import Terms
from edgehold.core.plan import MasksTable
from edgehold.core.vectors import Array, Schema, Tensor, Vector
from edgehold.defenses.baselines.fedavg import masked


def terms(entries: int, **table: Any) -> Terms:
    found = sized(MasksTable(**table), entries, 0)
    return Terms(
        "f", b"plan", "run", 1, 1, b"nonce", b"base", b"draw", found.entries, found.largest, found.bits, found.margin,
        found.cipher, found.least, found.most, found.clip, found.norm, found.variance, found.helpers,
    )  # fmt: skip


def whole(how: Terms, delta: Array) -> Array:
    form = masked.form(Schema((Tensor("w", (how.entries,)),)), how)
    return np.concatenate(list(form.vector(SimpleNamespace(delta=Vector.of(delta.astype("<f4"))))))


@given(
    scale=st.floats(1e-6, 1e3), entries=st.integers(1, 3000), bits=st.sampled_from([16, 32]), noise=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_numbers_keep_to_range_and_norm(scale: float, entries: int, bits: Any, noise: float, seed: int) -> None:
    how = terms(entries, norm=0.7, bits=bits, noise_multiplier=noise)
    found = whole(how, np.random.default_rng(seed).standard_normal(entries) * scale)
    assert found.min() >= 0
    assert found.max() <= how.largest
    assert np.linalg.norm((found - how.grid.half).astype(float)) <= how.norm / how.grid.step * (1 + 1e-12)


def test_rounding_on_a_coarse_grid_has_no_bias_and_on_a_fine_one_is_to_the_nearest() -> None:
    coarse, fine = terms(200_000, clip=1.0, bits=16), terms(200_000, clip=1.0)
    small = np.full(200_000, 0.2 * coarse.grid.step)
    steps = whole(coarse, small) - coarse.grid.half
    assert set(np.unique(steps)) == {0, 1}
    assert steps.mean() == pytest.approx(0.2, abs=5 * np.sqrt(0.16 / 200_000))
    assert (whole(coarse, small) == whole(coarse, small)).all(), "the same update, the same numbers"
    other = whole(coarse, np.append(small[:-1], 0.0)) - coarse.grid.half
    assert 0.2 < np.mean(other != steps) < 0.44, "errors of two devices are independent: 0.32 differ"
    values = np.random.default_rng(1).uniform(-1, 1, 200_000).astype("<f4")
    decoded = fine.grid.decode(whole(fine, values), 1)
    assert np.abs(decoded - values.astype(float)).max() <= fine.grid.step / 2


def test_what_has_no_place_is_refused() -> None:
    how = terms(3, clip=1.0)
    with pytest.raises(NotFinite):
        whole(how, np.array([0.0, np.nan, 1.0]))
    with pytest.raises(WrongShape, match="3 entries; the model has 4"):
        masked.form(Schema((Tensor("w", (4,)),)), how)
    form = masked.form(Schema((Tensor("w", (3,)),)), how)
    form.law(iter([np.array([0, how.largest * 2, 5])]), 2)
    with pytest.raises(OutsideLaw):
        form.law(iter([np.array([0, how.largest * 2 + 1, 5])]), 2)
