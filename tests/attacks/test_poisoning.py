"""Label poisoning: how many labels and which; each attack hurts more than chance where its source says so."""

from typing import Any

import numpy as np
import pytest

from edgehold.attacks.eval.heads import make_task
from edgehold.attacks.poisoning.alfa import alfa
from edgehold.attacks.poisoning.catalogue import ATTACKS, Scene, poisoned
from edgehold.attacks.poisoning.lfa import lfa
from edgehold.attacks.poisoning.search import searched
from edgehold.attacks.poisoning.simple import every_label, farthest, heaviest, nearest, random_flips
from edgehold.attacks.poisoning.tilt import alfa_tilt
from edgehold.attacks.poisoning.victim import Classes, SvmVictim, Trained
from edgehold.client.data.catalogue import load
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream

MOON = load("moon", seed=1)
HELD = load("moon", seed=1, data={"part": "validation"}).test
X, Y = MOON.train.x[:120], MOON.train.y[:120]


def scene() -> Scene:
    return Scene(X, Y, 2, 0.5, 10.0, HELD.x, HELD.y)


class Fixed:
    """Says the same whatever it is trained on."""

    def __init__(self, scores: list[float], duals: list[float]) -> None:
        self.trained = Trained(np.array(scores), np.array(duals), np.array(scores))

    def train(self, labels: Classes) -> Trained:
        return self.trained


@pytest.mark.parametrize("name", ATTACKS)
def test_as_many_labels_as_asked_for_and_the_same_twice(name: str) -> None:
    before = Y.copy()
    found = poisoned(name, scene(), 0.1, 7)
    assert (before == Y).all()
    assert int((found != Y).sum()) == (120 if name == "every" else 12)
    assert set(found.tolist()) <= {0, 1}
    assert (found == poisoned(name, scene(), 0.1, 7)).all()
    assert found.dtype == np.int64
    if name != "every":
        assert (poisoned(name, scene(), 0.0, 7) == Y).all()


def test_which_labels_by_hand() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    victim = Fixed([-3.0, 2.0, -0.5, 0.1, 5.0], [0.0, 1.0, 10.0, 10.0, 0.0])
    # Margins 3, 2, -0.5, -0.1, 5.
    assert farthest(labels, 2, victim).tolist() == [1, 1, 1, 0, 0]
    assert nearest(labels, 2, victim).tolist() == [0, 1, 0, 1, 1]
    assert heaviest(labels, 2, victim, stream(0)).tolist() == [0, 1, 0, 1, 1]
    assert every_label(np.array([0, 3, 9]), 10).tolist() == [9, 6, 0]
    drawn = {tuple(heaviest(labels, 1, victim, stream(seed), 2.0)) for seed in range(20)}
    assert drawn == {(0, 1, 0, 0, 1), (0, 1, 1, 1, 1)}


def test_random_flips_go_to_every_other_class() -> None:
    labels = np.full(4000, 3)
    found = random_flips(labels, 3000, stream(2), 5)
    counts = np.bincount(found, minlength=5)
    assert counts[3] == 1000
    assert (np.abs(counts[[0, 1, 2, 4]] - 750) < 5 * np.sqrt(750 * 0.75)).all()  # five deviations: one false alarm in a million


class Greedy:
    """Error on held-out records: the share of flipped labels whose index is in a set."""

    def __init__(self, costly: set[int]) -> None:
        self.costly = costly

    def train(self, labels: Classes) -> Trained:
        wrong = sum(int(labels[i] == 0) for i in self.costly)
        return Trained(np.arange(10.0, 0, -1), np.zeros(10), np.where(np.arange(10) < wrong, -1.0, 1.0))


def test_lfa_takes_the_costliest_candidate_first() -> None:
    labels, held = np.ones(10, np.int64), np.ones(10, np.int64)
    assert np.flatnonzero(lfa(labels, 2, Greedy({4, 7}), held) == 0).tolist() == [4, 7]
    # Of three candidates (0, 1, 2 at first) none is costly: the farthest go, until 4 comes into sight.
    assert np.flatnonzero(lfa(labels, 3, Greedy({4}), held, 3) == 0).tolist() == [0, 1, 4]
    assert np.flatnonzero(lfa(labels, 3, Greedy({3}), held, 3) == 0).tolist() == [0, 1, 3]


def test_alfa_starts_with_the_farthest_and_keeps_the_worst_round() -> None:
    labels = np.array([0, 1, 1, 0])
    victim = Fixed([-3.0, 2.0, 0.5, -0.2], [0.0] * 4)
    # e = e' = 0: gains are xi' - xi = 4 - 0, 3 - 0, 1.5 - 0.5, 1.2 - 0.8. The machine never changes, so all gains are 0 then.
    assert alfa(labels, 2, victim).tolist() == [1, 0, 1, 0]


class Plane:
    """A linear machine over four records, whose normal is what it is told to be for each number of flips."""

    kernel = np.diag([1.0, 1.0, 4.0, 4.0])
    cost = 2.0

    def __init__(self, duals: dict[tuple[int, ...], list[float]]) -> None:
        self.duals = duals

    def train(self, labels: Classes) -> Trained:
        return Trained(np.array([-4.0, 2.0, 1.0, -1.0]), np.array(self.duals[tuple(labels)]), np.zeros(4))


def test_tilt_keeps_the_try_that_turned_the_plane_most() -> None:
    labels = np.array([0, 1, 1, 0])
    # One flip. Duals rule out the first two records: a / C is 1 there, and margins weigh two tenths at most.
    clean: dict[tuple[int, ...], list[float]] = {(0, 1, 1, 0): [2.0, 2.0, 0.0, 0.0]}
    steep: dict[tuple[int, ...], list[float]] = {(0, 1, 0, 0): [0.0, 0.0, 1.0, 0.0], (0, 1, 1, 1): [2.0, 2.0, 0.0, 1.0]}
    flat: dict[tuple[int, ...], list[float]] = {(0, 1, 0, 0): [2.0, 2.0, 0.1, 0.0], (0, 1, 1, 1): [0.0, 0.0, 0.0, 1.0]}
    for seed in range(5):
        assert alfa_tilt(labels, 1, Plane(clean | steep), stream(seed), 30).tolist() == [0, 1, 0, 0]
        assert alfa_tilt(labels, 1, Plane(clean | flat), stream(seed), 30).tolist() == [0, 1, 1, 1]


def test_search_is_no_weaker_than_where_it_starts() -> None:
    on = scene()
    assert on.held_labels is not None

    def right(labels: Classes) -> float:
        return float(((on.victim.train(labels).held > 0) == on.held_labels).mean())

    starts = [poisoned(name, on, 0.1, 3) for name in ("farthest", "nearest", "alfa", "alfa-tilt")]
    started = searched(Y, 12, on.victim, on.held_labels, stream(3), swaps=0)
    went_on = searched(Y, 12, on.victim, on.held_labels, stream(3), swaps=60)
    assert right(started) <= min(right(found) for found in starts) + 0.01, "tilt and heaviest draw at random"
    assert right(went_on) < right(started), "swaps help"
    assert int((went_on != Y).sum()) == 12


def test_attacks_hurt_more_than_chance() -> None:
    """Accuracy on 1,000 clean records of an SVM on 15 % poisoned labels, mean of three seeds of points."""
    found: dict[str, list[float]] = {name: [] for name in ("", "random", "farthest", "alfa", "alfa-tilt", "search", "lfa")}
    for seed in range(3):
        split, held = load("moon", seed=seed), load("moon", seed=seed, data={"part": "validation"}).test
        x, y = split.train.x[:200], split.train.y[:200]
        on = Scene(x, y, 2, 0.5, 10.0, held.x[:200], held.y[:200])
        for name, scores in found.items():
            labels = lfa(y, 30, on.victim, held.y[:200], 6) if name == "lfa" else poisoned(name, on, 0.15, seed) if name else y
            scores.append(float(((SvmVictim(x, 0.5, 10.0, split.test.x).train(labels).held > 0) == split.test.y).mean()))
    means = {name: float(np.mean(scores)) for name, scores in found.items()}
    assert means[""] > 0.94
    assert means["random"] > 0.88
    for name in ("farthest", "alfa", "alfa-tilt", "search", "lfa"):
        assert means[name] < means["random"] - 0.02, means


def test_one_class_is_no_reason_to_fall() -> None:
    victim = SvmVictim(X, 0.5, 10.0, X[:3])
    for label, side in ((0, -1.0), (1, 1.0)):
        trained = victim.train(np.full(len(X), label))
        assert trained.held.tolist() == [side] * 3
        assert not trained.duals.any()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match='did you mean "farthest"'):
        poisoned("farhest", scene(), 0.1, 0)
    with pytest.raises(ConfigError, match=r"share = 1.5"):
        poisoned("random", scene(), 1.5, 0)
    with pytest.raises(ConfigError, match="two classes; there are 3"):
        poisoned("alfa", Scene(X, Y, 3), 0.1, 0)


def test_devices_are_poisoned_one_by_one() -> None:
    how: dict[str, Any] = {"positive": ["1", "3", "5", "7", "9"], "limit": 50, "count": 8}
    honest = [make_task("digits", i, 4, **how) for i in range(4)]
    turned = [make_task("digits", i, 4, **how, poison="every", victims=2) for i in range(4)]
    some = [make_task("digits", i, 4, **how, poison="random", share=0.2) for i in range(4)]
    for index in range(4):
        clean, wrong, part = (one[index].train_data for one in (honest, turned, some))
        assert clean is not None
        assert wrong is not None
        assert part is not None
        assert np.array_equal(clean.x, wrong.x)
        assert int((clean.y != wrong.y).sum()) == (50 if index < 2 else 0)
        assert int((clean.y != part.y).sum()) == 10
    flips = [np.flatnonzero(np.asarray(a.train_data.y != b.train_data.y)) for a, b in zip(honest, some, strict=True)]  # type: ignore[union-attr]
    assert len({tuple(one) for one in flips}) == 4, "every device its own flips"
    server = make_task("digits", -1, 4, **how, poison="every")
    assert server.samples == 0
    assert server.test_data is not None
    with pytest.raises(ConfigError, match="unknown option 'sead'"):
        make_task("digits", 0, 4, sead=1)
