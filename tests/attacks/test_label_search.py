"""Flips that a search chose, between two classes of a device's own records."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.byzantine import label_search
from edgehold.attacks.byzantine.label_search import searched
from edgehold.core.errors import ConfigError

RNG = np.random.default_rng(0)
Y = np.array([3] * 5 + [7] * 10 + [1] * 10)
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
    assert (searched(X[:5], Y[:5], "alfa", 7, 1, 1.0, 0) == Y[:5]).all()


@dataclass(frozen=True)
class Held:
    """A task of records alone."""

    train_data: tuple[Any, Any]


class Told:
    """A device half whose update is the labels that it was given."""

    def work(self, order: Any, local: Any, task: Held, rng: Any) -> tuple[Any, Any, dict[str, float]]:
        return local, task.train_data[1], {}


def test_a_device_learns_from_the_flipped_labels_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    monkeypatch.setattr(label_search, "_FOUND", {})
    real = label_search.searched

    def counted(*how: Any) -> Any:
        searches.append(how)
        return real(*how)

    monkeypatch.setattr(label_search, "searched", counted)
    liar: Any = label_search.make("alfa", 7, 1, 0.5)(Told(), "c0")  # type: ignore[arg-type]
    rounds = [liar.work(None, None, Held((X, Y)), RNG)[1] for _ in range(3)]
    assert all((labels == real(X, Y, "alfa", 7, 1, 0.5, 0)).all() for labels in rounds)
    assert len(searches) == 1, "searched for once"
    liar.work(None, None, Held((X, Y[::-1].copy())), RNG)
    assert len(searches) == 2, "other labels are other records"


@pytest.mark.parametrize(
    ("options", "says"),
    [({"search": "alpha"}, 'did you mean "alfa'), ({"source": 1}, "two different"), ({"share": 0.0}, "share = 0")],
)
def test_impossible_searches_are_refused(options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        label_search.make(**options)  # type: ignore[arg-type]
