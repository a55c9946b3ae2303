"""A small matrix, and cells that are made up instead of played."""

from pathlib import Path
from typing import Any

import pytest
from tests.support.small_matrix import SMALL, Interrupt, made_up

from edgehold.attacks.eval.cells import Cell
from edgehold.attacks.matrix import run
from edgehold.attacks.matrix.play import Outcome


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The file of a small matrix."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """No cell is really played; the list holds those that would have been."""
    played: list[Cell] = []

    def attempt(cell: Cell, data: Any) -> Outcome:
        played.append(cell)
        return Outcome(made_up(cell), 0.1, "abc1234")

    monkeypatch.setattr(run, "attempt", attempt)
    return played


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
