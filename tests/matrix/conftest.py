"""A small matrix, and cells that are made up instead of played."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgehold.attacks.eval.cells import Cell, key
from edgehold.attacks.matrix import run
from edgehold.attacks.matrix.play import Outcome

SMALL = """
[matrix]
name = "small"
seeds = 2
knowledge = "K2+A"
data = ["digits"]
defences = ["krum", "median"]
attacks = ["sign_flip", "alie"]
[data.digits]
dataset = "digits"
honest = 6
rounds = 1
limit = 20
test_limit = 60
partition = "iid"
net = { hidden = [8] }
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The file of a small matrix."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def made_up(cell: Cell) -> dict[str, float]:
    """Facts that differ from cell to cell."""
    number = int(hashlib.sha256(key(cell).encode()).hexdigest()[:6], 16) / 16**6
    low = {"none": 0.9, "sign_flip": 0.2}.get(cell["attack"], 0.5) + 0.05 * number
    value = low if cell["defence"] == "average" else max(low, 0.8 + 0.05 * number)
    return {
        "accuracy": value, "recall": value, "resisted": value, "resisted_bars": value, "bytes_up": 9.0, "bytes_down": 8.0,
        "refused": 0.0,
    }  # fmt: skip


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """No cell is really played; the list holds those that would have been."""
    played: list[Cell] = []

    def attempt(cell: Cell, data: Any) -> Outcome:
        played.append(cell)
        return Outcome(made_up(cell), 0.1, "abc1234")

    monkeypatch.setattr(run, "attempt", attempt)
    return played


Interrupt = Callable[[int], None]


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Ctrl-C once so many cells are finished."""

    def after(cells: int) -> None:
        done: list[Cell] = []

        def attempt(cell: Cell, data: Any) -> Outcome:
            if len(done) == cells:
                raise KeyboardInterrupt
            done.append(cell)
            return Outcome(made_up(cell), 0.1, "abc1234")

        monkeypatch.setattr(run, "attempt", attempt)

    return after
