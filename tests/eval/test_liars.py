"""Reproductions of liars with measures of their own: cells, and bars that tell a harmless attack from one that wins."""

from pathlib import Path
from typing import Any

import pytest

from edgehold.attacks.byzantine import registry
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.reproductions import REPRODUCTIONS, Options, aimed_liars, consensus_liars
from edgehold.attacks.matrix.grid import Grid
from edgehold.attacks.matrix.plan import READY, parse
from edgehold.core.errors import ConfigError


def judged(study: Any, options: Options, value: Any) -> Any:
    return study.judge(options, [Played(cell, value(cell), 0.0, "") for cell in study.cells(options)])


def consensus(wins: bool, cell: Cell) -> dict[str, float]:
    hit = wins and bool(cell["liars"])
    figures = dict.fromkeys(consensus_liars.HEADS.values(), 0.5)
    return {**figures, "angle": 80.0 if hit else 1.0, "db": -10.0 if hit else -40.0, "refused": 0.0}


@pytest.mark.parametrize("quick", [True, False])
def test_bars_on_a_consensus_ask_the_attacks_to_win(quick: bool, tmp_path: Path) -> None:
    for name in ("nsl-kdd", "beijing-air"):
        (tmp_path / name).mkdir(exist_ok=True)
    options = Options(2, quick, tmp_path)
    won, lost = (judged(consensus_liars, options, lambda cell, wins=wins: consensus(wins, cell)) for wins in (True, False))
    assert won.holds
    assert not any(bar.holds for bar in lost.bars)
    assert len(won.bars) == (3 if quick else 2 + 2 * 4)
    assert str(tmp_path) not in str(consensus_liars.cells(options))
    without = judged(consensus_liars, Options(1, quick), lambda cell: consensus(True, cell))
    assert any("FedPCA left out" in note for note in without.notes)


def aimed(wins: bool, cell: Cell) -> dict[str, float]:
    hit = wins and bool(cell["liars"])
    return {"accuracy": 0.8 if hit else 0.95, "missed": 0.0 if hit else 0.15, "success": 0.9 if hit else 0.0}


@pytest.mark.parametrize("quick", [True, False])
def test_bars_on_aims_ask_the_attacks_to_win(quick: bool) -> None:
    options = Options(2, quick)
    won, lost = (judged(aimed_liars, options, lambda cell, wins=wins: aimed(wins, cell)) for wins in (True, False))
    assert won.holds
    assert not any(bar.holds for bar in lost.bars)
    assert len(won.tables) == 3


def test_a_cell_of_each_kind_that_needs_no_data_can_be_played() -> None:
    clean, lied = (
        consensus_liars.play({"kind": "authors", "way": "anchored", "liars": liars, "strength": 1.0, "seed": 0}, None)
        for liars in (0, 2)
    )
    assert lied["db"] > clean["db"] + 5.0
    assert lied["refused"] == 0.0
    last = {"kind": "plain", "liars": 3, "rounds": aimed_liars.LIES, "seed": 0}
    assert aimed_liars.play(last, None)["success"] > aimed_liars.play({**last, "liars": 0}, None)["success"] + 0.5


@pytest.mark.parametrize("name", ["bases_rotate", "consensus_drift", "ranks_control", "ranks_targeted"])
def test_a_matrix_refuses_what_it_cannot_judge_and_says_what_plays_it(name: str) -> None:
    text = READY.text_of("quick").replace('"signs_invert"', f'"{name}"').replace('"fashion-mnist"', '"digits"')
    with pytest.raises(ConfigError, match=f"{name} cannot be in a matrix: .*fl-eval reproduce") as refused:
        Grid(parse(text))
    assert any(known in str(refused.value) for known in REPRODUCTIONS)
    assert registry.find(name).as_dict()["alone"]
