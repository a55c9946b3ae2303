"""Flips that a search chose, between two classes of a device's own records."""

import numpy as np
import pytest

from edgehold.attacks.byzantine import label_search
from edgehold.attacks.byzantine.label_search import searched
from edgehold.core.errors import ConfigError

RNG = np.random.default_rng(0)
Y = np.array([7] * 10 + [1] * 10 + [3] * 5)
X = np.where(Y == 7, 1.0, np.where(Y == 1, -1.0, 0.0))[:, None, None] + 0.3 * RNG.normal(size=(25, 2, 2))


@pytest.mark.parametrize("search", ["alfa", "lfa"])
def test_flips_stay_between_the_two_classes_and_are_as_many_as_asked(search: str) -> None:
    found = searched(X, Y, search, 7, 1, 0.5, 0)
    changed = found != Y
    assert changed.sum() == 10  # half of the 20 records of both
    assert set(Y[changed]) <= {7, 1}
    assert set(found[changed]) <= {7, 1}
    assert (found[Y == 3] == 3).all()
    assert (searched(X, Y, search, 7, 1, 0.5, 0) == found).all()
    assert (searched(X, Y, search, 7, 1, 1.0, 0)[Y == 7] == 1).all()


def test_searches_differ_from_each_other_and_from_chance() -> None:
    found = [searched(X, Y, search, 7, 1, 0.2, 0) for search in ("alfa", "lfa", "random")]
    assert all((one != Y).sum() == 4 for one in found)
    assert len({one.tobytes() for one in found}) == 3


def test_a_device_without_either_class_flips_nothing() -> None:
    assert (searched(X[20:], Y[20:], "alfa", 7, 1, 1.0, 0) == Y[20:]).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [({"search": "alpha"}, 'did you mean "alfa'), ({"source": 1}, "two different"), ({"share": 0.0}, "share = 0")],
)
def test_impossible_searches_are_refused(options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        label_search.make(**options)  # type: ignore[arg-type]
