"""From kept cells to verdicts: facts in, facts out; nothing is played here and nothing is drawn."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgehold.attacks.eval.cells import Cell, key
from edgehold.attacks.matrix.audited import Audited, audited
from edgehold.attacks.matrix.grid import AVERAGE, CLEAN, Grid, liars_of
from edgehold.attacks.matrix.play import Outcome
from edgehold.attacks.matrix.verdict import Comparison, Estimate, Scores, Verdict, compare, estimate, holm, verdict, worst_of


@dataclass(frozen=True, slots=True)
class Row:
    """A cell and what came out. digest: of its configuration, seed included."""

    digest: str
    cell: Cell
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Worst:
    """A defence at its worst among the attacks that work and that it met. attack: empty where none did; clean: nobody lies.

    counted: the attacks it is the worst of; missed: those that work but that its updates cannot carry. hurt: attacks that
    do not work on the average and yet cost this defence; they are not among the counted.
    """

    data: str
    share: float
    defence: str
    attack: str
    value: Estimate | None
    clean: Estimate | None
    undefended: Estimate | None
    counted: int
    missed: int
    hurt: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Price:
    """What a client sends and receives in a round, bytes, and processor seconds of a run, where nobody lies."""

    data: str
    defence: str
    bytes_up: float
    bytes_down: float
    seconds: float
    epsilon: float | None
    accuracy: float


@dataclass(frozen=True, slots=True)
class Judged:
    """All that a report tells. waiting: cells not played yet. audit_rows: cells of audits; audited: what comes of them."""

    rows: Sequence[Row]
    waiting: int
    verdicts: Sequence[Verdict]
    worst: Sequence[Worst]
    comparisons: Sequence[Comparison]
    prices: Sequence[Price]
    audit_rows: Sequence[Row] = ()
    audited: Audited = Audited()

    @property
    def failed(self) -> Sequence[Row]:
        """Cells that crashed."""
        return [row for row in (*self.rows, *self.audit_rows) if row.outcome.error]


def judge(grid: Grid, outcomes: Mapping[str, Outcome]) -> Judged:
    """Verdicts on everything that the matrix asks for, as far as it is there."""
    cells = grid.cells()
    rows = [Row(key(cell), cell, outcomes[key(cell)]) for cell in cells if key(cell) in outcomes]
    audits = grid.audits()
    audit_rows = [Row(key(cell), cell, outcomes[key(cell)]) for cell in audits if key(cell) in outcomes]
    waiting = len(cells) - len(rows) + len(audits) - len(audit_rows)
    ledger = _Ledger(grid, outcomes)
    verdicts = [ledger.verdict(data, share, defence, threat.label) for data, share, defence, threat in grid.pairs()]
    places = sorted({(one.data, one.share) for one in verdicts}, key=lambda at: (list(grid.data).index(at[0]), at[1]))
    worst = [ledger.worst(data, share, defence, verdicts) for data, share in places for defence in grid.defences]
    kept = [one for one in worst if one]
    return Judged(
        rows, waiting, verdicts, kept, ledger.comparisons(verdicts, kept), ledger.prices(), audit_rows,
        audited(grid.matrix.audits, outcomes),
    )  # fmt: skip


def leader(worst: Sequence[Worst], share: float) -> str:
    """The defence whose lowest worst case over all data is highest, of those that met every attack that works; else empty."""
    found: dict[str, float] = {}
    places = {one.data for one in worst}
    for one in worst:
        if one.share == share and one.value and not one.missed and one.defence != AVERAGE:
            found[one.defence] = min(found.get(one.defence, 1.0), one.value.mean)
    everywhere = {name: low for name, low in found.items() if {w.data for w in worst if w.defence == name} == places}
    return max(everywhere, key=lambda name: everywhere[name], default="")


class _Ledger:
    """Scores of cells by seed."""

    def __init__(self, grid: Grid, outcomes: Mapping[str, Outcome]) -> None:
        self._grid, self._outcomes = grid, outcomes
        self._seeds = range(grid.matrix.matrix.seeds)

    def scores(self, data: str, share: float, defence: str, attack: str, fact: str) -> Scores:
        found = {}
        for seed in self._seeds:
            outcome = self._outcomes.get(key(self._grid.cell(data, share, defence, attack, seed)))
            if outcome and fact in outcome.facts:
                found[seed] = outcome.facts[fact]
        return found

    def verdict(self, data: str, share: float, defence: str, attack: str) -> Verdict:
        threat = self._grid.attacks[attack]
        metric = threat.measure
        return verdict(
            (data, share, defence, attack), metric, threat.bar,
            value=self.scores(data, share, defence, attack if defence != AVERAGE else threat.control, metric),
            baseline=self.scores(data, share, AVERAGE, threat.control, metric),
            ceiling=self.scores(data, share, AVERAGE, CLEAN, metric),
            clean=self.scores(data, share, defence, CLEAN, metric),
        )  # fmt: skip

    def worst(self, data: str, share: float, defence: str, verdicts: Sequence[Verdict]) -> Worst | None:
        """Of attacks that are after accuracy. None where that defence is not played there."""
        here = [v for v in verdicts if (v.data, v.share) == (data, share) and v.metric == "accuracy" and v.works]
        clean = self.scores(data, share, defence, CLEAN, "accuracy")
        mine = [v for v in here if v.defence == defence and v.value is not None]
        if not clean and not mine:
            return None
        calm = estimate(np.array(list(clean.values()))) if clean else None
        # Lies that only fit votes cannot be missed by whoever is sent none.
        working = {v.attack for v in here if self._grid.attacks[v.attack].control == v.attack}
        hurt = [
            v.attack
            for v in verdicts
            if (v.data, v.share, v.defence, v.metric) == (data, share, defence, "accuracy") and v.hurt
        ]
        missed = len(working - {v.attack for v in mine})
        table = [self.scores(data, share, defence, v.attack, "accuracy") for v in mine]
        seeds = sorted(set.intersection(*map(set, table))) if table else []
        if not seeds:
            return Worst(data, share, defence, "", None, calm, None, 0, missed, hurt)
        low = min(mine, key=lambda v: v.value.mean if v.value else 1.0)
        value = estimate(np.array([[scores[seed] for seed in seeds] for scores in table]), worst_of)
        return Worst(data, share, defence, low.attack, value, calm, low.baseline, len(mine), missed, hurt)

    def comparisons(self, verdicts: Sequence[Verdict], worst: Sequence[Worst]) -> list[Comparison]:
        """Every defence against none, and against the one that is best at its worst; at the first share of the matrix."""
        first = self._grid.matrix.matrix.shares[0]
        met = {
            (v.defence, v.data): {w.attack for w in verdicts if (w.defence, w.data) == (v.defence, v.data) and w.share == first
                                  and w.metric == "accuracy" and w.works}
            for v in verdicts
        }  # fmt: skip
        found = []
        for other in dict.fromkeys((AVERAGE, leader(worst, first))):
            table = [self._compared(met, first, one, other) for one in self._grid.defences if one != other and other]
            kept = [one for one in table if one]
            corrected = holm([one.p for one in kept])
            found += [replace(one, holm=value) for one, value in zip(kept, corrected, strict=True)]
        return found

    def _compared(
        self, met: Mapping[tuple[str, str], set[str]], share: float, defence: str, other: str
    ) -> Comparison | None:  # fmt: skip
        one, two, attacks = [], [], set[str]()
        for data in self._grid.data:
            names = sorted(met.get((defence, data), set()) & met.get((other, data), set()))
            attacks |= set(names)
            ours = [self.scores(data, share, defence, name, "accuracy") for name in names]
            theirs = [self.scores(data, share, other, name, "accuracy") for name in names]
            for seed in sorted(set.intersection(*map(set, ours + theirs))) if names else ():
                one.append(float(np.mean([scores[seed] for scores in ours])))
                two.append(float(np.mean([scores[seed] for scores in theirs])))
        return compare(defence, other, len(attacks), one, two) if one else None

    def prices(self) -> list[Price]:
        first = self._grid.matrix.matrix.shares[0]
        found = []
        for data in self._grid.data:
            for defence in self._grid.defences:
                digests = [key(self._grid.cell(data, first, defence, CLEAN, seed)) for seed in self._seeds]
                here = [one for digest in digests if (one := self._outcomes.get(digest)) and one.facts]
                if not here:
                    continue
                mean = {
                    name: float(np.mean([one.facts[name] for one in here])) for name in ("bytes_up", "bytes_down", "accuracy")
                }
                spent = [one.facts["epsilon"] for one in here if "epsilon" in one.facts]
                seconds = float(np.mean([one.seconds for one in here]))
                worst = max(spent) if spent else None
                found.append(
                    Price(data, defence, mean["bytes_up"], mean["bytes_down"], seconds, worst, mean["accuracy"])
                )  # fmt: skip
        return found


def liars_told(grid: Grid, data: str, share: float) -> str:
    """ "3 of 15 (20 %)"."""
    honest = grid.data[data].honest
    liars = liars_of(honest, share)
    return f"{liars} of {honest + liars} ({100 * liars / (honest + liars):.0f} %)"


def tracebacks(error: str) -> str:
    """A traceback without the folders of the machine."""
    return re.sub(r'File ".*?(edgehold/[^"]+|[^"/]+)"', r'File "\1"', error)
