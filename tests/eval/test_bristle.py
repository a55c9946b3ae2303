"""Bristle's reproduction: the short cut is the product's own rounds, and its bars can fail."""

from collections.abc import Callable

import numpy as np
import pytest

from edgehold.attacks.eval.cells import Played
from edgehold.attacks.eval.reproductions import Options, bristle, bristle_fleet


@pytest.mark.parametrize(
    "way",
    [
        {**bristle.CALM, "integrator": "bristle"},
        {**bristle.FIVE, "integrator": "bristle"},
        {**bristle.NOISE, "integrator": "trimmed", "keep": "all"},
        {**bristle.EVEN, "integrator": "krum"},
        {**bristle.CALM, "integrator": "alone"},
    ],
)
def test_the_short_cut_gives_the_heads_of_the_product(way: bristle.Way) -> None:
    cell = {**bristle.BASE, **way, "rounds": 5, "seed": 3}
    short, whole = list(bristle_fleet.at_once(cell)), list(bristle_fleet.played(cell))
    assert len(short) == len(whole) == 5
    for one, other in zip(short, whole, strict=True):
        assert {name: head.tobytes() for name, head in one.items()} == {name: head.tobytes() for name, head in other.items()}
    assert np.abs(whole[-1]["c0000"]).max() > 0.01


def test_devices_have_four_classes_in_a_row_and_nobodys_records() -> None:
    seen: set[bytes] = set()
    for index in range(20):
        task = bristle_fleet.make_task(index, 20, honest=10, iid=False, seed=2)
        assert task.train_data is not None
        kinds, counts = np.unique(task.train_data.y, return_counts=True)
        assert kinds.tolist() == (sorted((index + step) % 10 for step in range(4)) if index < 10 else list(range(10)))
        assert set(counts.tolist()) == {5}
        parts = [task.train_data.x]
        if index < 10:
            assert task.held_data is not None
            assert np.unique(task.held_data.y, return_counts=True)[1].tolist() == [10] * 4
            parts.append(task.held_data.x)
        for row in np.concatenate(parts):
            assert row.tobytes() not in seen
            seen.add(row.tobytes())


def test_the_table_is_full_and_the_bars_can_fail() -> None:
    cells = bristle.cells(Options(2))
    assert len({tuple(sorted(cell.items())) for cell in cells}) == len(cells)
    for way in bristle.SETTINGS.values():
        for rule in bristle.RULES:
            assert {**bristle.BASE, **way, "integrator": rule, "rounds": bristle.ROUNDS, "seed": 1} in cells
    quick = bristle.cells(Options(2, quick=True))
    assert all(cell in cells for cell in quick)

    def outcome(value: Callable[[str, str], float]) -> list[bool]:
        played = []
        for cell in quick:
            found = value(cell["integrator"], cell["attack"])
            played.append(Played(cell, {"accuracy": found, "worst": found, "first": found}, 0.0, ""))
        return [bar.holds for bar in bristle.judge(Options(2, quick=True), played).bars]

    good = {"bristle": 0.9, "median": 0.7, "krum": 0.4, "alone": 0.4}

    def as_promised(rule: str, attack: str) -> float:
        return {**good, "mean": 0.92 if attack == "none" else 0.05}[rule]

    assert outcome(as_promised) == [True] * 7
    assert outcome(lambda rule, attack: 0.8 if rule == "bristle" else as_promised(rule, attack))[0] is False
    assert outcome(lambda rule, attack: 0.8 if rule in ("median", "krum") else as_promised(rule, attack))[1:3] == [False, False]
    # A mean that does not fall: nothing was withstood.
    assert outcome(lambda rule, attack: 0.98 if rule == "mean" else as_promised(rule, attack))[3:5] == [False, False]
    assert outcome(lambda rule, attack: 0.6 if rule == "alone" else as_promised(rule, attack))[5] is False
    assert (
        outcome(lambda rule, attack: 0.5 if attack != "none" and rule == "bristle" else as_promised(rule, attack))[6] is False
    )


@pytest.mark.slow
def test_bristle_holds_where_the_mean_falls() -> None:
    """The first seed's row of five attackers; the rest is for the long command."""
    base = {**bristle.BASE, **bristle.FIVE, "rounds": bristle.ROUNDS, "seed": 0}
    held, fallen = (bristle.play({**base, "integrator": rule}, None)["accuracy"] for rule in ("bristle", "mean"))
    assert fallen < 0.1
    assert held > 0.8
