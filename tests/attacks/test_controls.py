"""An attack must win where nobody defends before its defeat counts: every attack against the average, with the bars of
`fl-eval reproduce byzantine`, two seeds of five.
"""

import statistics
from functools import lru_cache

import pytest

from edgehold.attacks.byzantine import registry
from edgehold.attacks.eval.cells import Played
from edgehold.attacks.eval.reproductions import Options, byzantine
from edgehold.attacks.eval.reproductions.byzantine import AVERAGE, CLEAN, CONTROLS, RULES, Control


@lru_cache
def score(attack: str, seed: int, rule: str, name: str, liars: int, rounds: int, partition: str) -> float:
    how = CONTROLS.get(attack) or Control(0.0, {}, rounds, liars=liars, partition=partition)
    cell = byzantine._cell(rule, attack, seed, how)
    return byzantine.play(cell, None)[name]


def cost(attack: str, rule: str = AVERAGE) -> float:
    how = CONTROLS[attack]
    clean = "success_bars" if attack == "backdoor_bars" else how.measure
    place = (how.liars, how.rounds, how.partition)
    gaps = [score(CLEAN, seed, rule, clean, *place) - score(attack, seed, rule, how.measure, *place) for seed in (0, 1)]
    return statistics.fmean(gaps) * (-1.0 if how.measure == "success" else 1.0)


@pytest.mark.parametrize("attack", CONTROLS)
def test_an_attack_wins_against_the_average(attack: str) -> None:
    assert cost(attack) >= CONTROLS[attack].bar


def test_every_attack_has_a_control() -> None:
    """All but what is always refused, lies in other payloads, which have tests of their own, and searches for flips between
    two classes: what these cost a network beside honest ones is too little for a bar, and a matrix says so.
    """
    payloads = ("ranks_", "signs_", "bases_", "consensus_")
    elsewhere = {"not_finite", "label_alfa", "label_lfa"} | {n for n in registry.ATTACKS if n.startswith(payloads)}
    assert set(CONTROLS) == set(registry.ATTACKS) - elsewhere


def test_a_quick_report_has_every_control_and_a_full_one_every_rule() -> None:
    quick = byzantine.cells(Options(1, quick=True))
    assert {cell["rule"] for cell in quick} == {AVERAGE}
    assert {cell["attack"] for cell in quick} == {CLEAN, *CONTROLS}
    assert {cell["rule"] for cell in byzantine.cells(Options(1))} == set(RULES)


def test_the_report_tells_harmless_attacks_apart() -> None:
    """Made-up outcomes: where attacks do what the clean runs do no bar holds, where they do all they can every one does."""
    options = Options(2, quick=True)
    calm = {"accuracy": 0.8, "recall": 0.9, "success": 0.0, "success_bars": 0.0}
    wild = {"accuracy": 0.1, "recall": 0.0, "success": 1.0, "success_bars": 1.0}
    cells = byzantine.cells(options)
    harmless = byzantine.judge(options, [Played(cell, calm, 0.0, "") for cell in cells])
    assert not any(bar.holds for bar in harmless.bars)
    lost = byzantine.judge(options, [Played(cell, calm if cell["attack"] == CLEAN else wild, 0.0, "") for cell in cells])
    assert len(lost.bars) == len(CONTROLS)
    assert lost.holds
    assert lost.tables[0].rows[-1][2] == "0.100"


def test_loud_attacks_are_held_by_a_rule() -> None:
    """Numbers thrown far off are what a trimmed mean is for; were this to fail, the attack or the rule would be broken."""
    for attack in ("sign_flip", "gaussian"):
        assert cost(attack, "trimmed_mean") < cost(attack) - 0.1
