"""Tables of noise-robust ADMM's reproduction, and what they stand beside.

The paper's tables and figures could not be read. The last columns are an independent simulation of the same set-ups, one or two
runs of it, in plain arrays of float64 without codecs or daemons. NMSD in dB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgehold.attacks.eval.bars import Table, told
from edgehold.attacks.eval.cells import Played

DEVICES, FEW, ROUNDS, ALL_ROUNDS = 100, 4, 500, 300
STATIONS, EARLY, LATE = 12, 200, 1000
LOUD, QUIET, AIR_NOISE = 1e-2, 6.25e-4, 9e-4
EXACT_ROUNDS = 2000
BESIDE = "independent simulation"

AUTHORS: Mapping[tuple[str, int, float], str] = {
    ("rerce", 4, 1e-2): "-17.7",
    ("rerce", 4, 6.25e-4): "-29.8",
    ("rerce", 4, 0.0): "-56.6",
    ("continual", 4, 1e-2): "-23.2",
    ("continual", 4, 6.25e-4): "-35.2",
    ("continual", 4, 0.0): "-59.0",
    ("anchored", 4, 1e-2): "-23.4",
    ("anchored", 4, 6.25e-4): "-35.4",
    ("anchored", 4, 0.0): "-59.1",
    ("rerce", 10, 1e-2): "-20.6",
    ("rerce", 20, 1e-2): "-22.2",
    ("rerce", 100, 1e-2): "-23.1",
    ("rerce", 10, 6.25e-4): "-32.6",
    ("rerce", 20, 6.25e-4): "-34.2",
    ("rerce", 100, 6.25e-4): "-35.2",
    ("dual", 100, 1e-2): "-18.6",
    ("dual", 100, 6.25e-4): "-30.6",
    ("dual", 20, 1e-2): "-14.7",
    ("dual", 10, 1e-2): "diverges",
    ("dual", 4, 1e-2): "diverges",
}
"""(form, devices asked of 100, link variance): round 500 with 4 asked, else round 300."""

AIR: Mapping[tuple[str, int], tuple[str, str]] = {
    ("rerce", 12): ("-12.6", "+0.4"),
    ("rerce", 4): ("-13.9", "-7.4"),
    ("continual", 4): ("-10.7", "-2.2"),
    ("anchored", 12): ("-26.4", "-26.4"),
    ("anchored", 4): ("-26.0", "-26.0"),
}
"""(form, stations asked of 12): rounds 200 and 1,000 at link variance 9e-4. That simulation left records with gaps out."""

QUIET_AIR: Mapping[tuple[str, int], str] = {
    ("rerce", 12): "1e-8 at round 577",
    ("rerce", 4): "floor -17.5",
    ("continual", 4): "floor -31.7",
    ("anchored", 12): "1e-8 at round 577",
    ("anchored", 4): "1e-8 at round 1,697",
}
"""The same without noise."""


@dataclass(frozen=True)
class Found:
    """What was played, by what was asked for: one value per seed."""

    played: Sequence[Played]

    def values(self, what: str, **wanted: Any) -> list[float]:
        """`what` of every run whose cell has all of `wanted`."""
        return [one.value[what] for one in self.played if wanted.items() <= one.cell.items() and what in one.value]

    def authors(self, form: str, asked: int, variance: float, rounds: int = ROUNDS, wire: str = "") -> list[float]:
        """NMSD on the authors' set-up in the last round."""
        plain = Found([one for one in self.played if one.cell.get("wire", "") == wire])
        return plain.values(f"nmsd_{rounds}", kind="authors", form=form, asked=asked, variance=variance, rounds=rounds)

    def air(self, form: str, asked: int, number: int, variance: float = AIR_NOISE) -> list[float]:
        """NMSD on the air data in round `number`."""
        return self.values(f"nmsd_{number}", kind="air", form=form, asked=asked, variance=variance)


def authors_table(found: Found) -> Table:
    """The authors' set-up: forms, participation, noise; rounding to float16 as the only noise below."""
    rows = [
        [form, f"{c} of {DEVICES}", f"{variance:g}", str(rounds), told(values), AUTHORS.get((form, c, variance), "")]
        for c, rounds in ((FEW, ROUNDS), (FEW, ALL_ROUNDS), (10, ALL_ROUNDS), (20, ALL_ROUNDS), (DEVICES, ALL_ROUNDS))
        for variance in (LOUD, QUIET, 0.0)
        for form in ("anchored", "continual", "rerce", "dual")
        if (values := found.authors(form, c, variance, rounds))
    ]
    rows += [
        [form, f"{FEW} of {DEVICES}", "float16 alone", str(ROUNDS), told(values), ""]
        for form in ("anchored", "rerce")
        if (values := found.authors(form, FEW, 0.0, wire="float16"))
    ]
    return Table("authors' set-up: NMSD in dB", ("form", "asked", "link variance", "round", "NMSD", BESIDE), rows)


def air_tables(found: Found) -> list[Table]:
    """The stations with noise, and without where that was played."""
    alone = told([one.value["alone"] for one in found.played if one.cell["kind"] == "air"][:1])
    rows = [
        [form, f"{c} of {STATIONS}", told(found.air(form, c, EARLY)), early, told(found.air(form, c, LATE)), late]
        for (form, c), (early, late) in AIR.items()
        if found.air(form, c, EARLY)
    ]
    rows.append(["each station alone", "", alone, "-16.7", alone, "-16.7"])
    title = f"air quality, {STATIONS} stations, link variance {AIR_NOISE:g}: NMSD in dB"
    tables = [Table(title, ("form", "asked", f"round {EARLY}", BESIDE, f"round {LATE}", BESIDE), rows)]
    rows = [
        [form, f"{c} of {STATIONS}", told(found.air(form, c, LATE, 0.0)), _reached(found, form, c), there]
        for (form, c), there in QUIET_AIR.items()
        if found.air(form, c, LATE, 0.0)
    ]
    if rows:
        title = f"air quality without noise, float64 on the wire, {EXACT_ROUNDS} rounds"
        tables.append(Table(title, ("form", "asked", f"NMSD at round {LATE}, dB", "1e-8 at round", BESIDE), rows))
    return tables


def _reached(found: Found, form: str, asked: int) -> str:
    rounds = found.values("exact", kind="air", form=form, asked=asked, variance=0.0)
    return f"{np.mean(rounds):.0f}" if rounds else "never"
