"""FLORAL: what a game against label flips keeps of a support vector machine's accuracy, beside its control without an attacker.

Source: Bal, Cevher and Muehlebach 2025, arXiv:2502.17121, and the authors' code; no result table of theirs could be read.
Scaled: digits (3 against 8, odd against even) and two moons on one machine, odd against even digits over eight devices.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgehold.attacks.eval.bars import Bar, Report, Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.reproductions import Options
from edgehold.attacks.eval.reproductions import floral_central as central
from edgehold.attacks.eval.reproductions import floral_fleet as fleet

NAME = "floral"
SUMMARY = "Label flips on digits, moons and over devices: FLORAL beside its control without an attacker and beside SVMs"

Way = Mapping[str, Any]

GAINS_RANDOM, BEHIND_CONTROL, GAINS_HEAVIEST, COSTS_CLEAN, GAINS_FLEET = 0.08, -0.02, 0.12, -0.10, 0.04
ERROR, BYTES = 1.2, 2052 + 16

_GAME: Way = {"way": "game", "gamma": central.GAMMA, "step": 0.0, "plays": central.PLAYS, "released": False}
_SVM: Way = {"way": "svm", "gamma": central.GAMMA}
MACHINES: Mapping[str, Way] = {
    "SVM, C 10": {**_SVM, "cost": 10.0},
    "SVM, C 0.1": {**_SVM, "cost": 0.1},
    "control, k 0": {**_GAME, "flips": 0.0},
    "FLORAL, k 0.05 n": {**_GAME, "flips": 0.05},
    "FLORAL, k 0.1 n": {**_GAME, "flips": 0.1},
    "FLORAL, k 0.2 n": {**_GAME, "flips": 0.2},
}
POISONS: Mapping[str, Way] = {
    "none": {"poison": "", "share": 0.0},
    "30 % random": {"poison": "random", "share": 0.3},
    "30 % largest dual weights": {"poison": "heaviest", "share": 0.3},
}
GAMMAS = (0.05, 0.2)
"""Beside the bars' own: how much hangs on the kernel's width."""
SHOWN = ("SVM, C 10", "control, k 0", "FLORAL, k 0.1 n")
_MOON: Way = {"way": "game", "gamma": 2.0, "step": 1e-3, "plays": 300, "released": False}
_RELEASED: Way = {"way": "game", "gamma": central.MOON_GAMMA, "step": 1e-4, "plays": 501, "released": True}
MOON: Mapping[str, Way] = {
    "SVM to convergence, C 10, gamma 0.5": {"way": "svm", "gamma": central.MOON_GAMMA, "cost": 10.0},
    "control, released default": {**_RELEASED, "flips": 0.0},
    "FLORAL, released default, k 25": {**_RELEASED, "flips": float(central.MOON_FLIPS)},
    "control, gamma 2, step 1e-3, 300 rounds": {**_MOON, "flips": 0.0},
    "FLORAL, the same, k 25": {**_MOON, "flips": float(central.MOON_FLIPS)},
}
MOON_POISONS: Mapping[str, Way] = {
    "clean": {"poison": "", "share": 0.0},
    "10 % heavy": {"poison": "heavy", "share": 0.1},
    "25 % heavy": {"poison": "heavy", "share": 0.25},
    "25 % LFA": {"poison": "lfa", "share": 0.25},
    "10 % ALFA": {"poison": "alfa", "share": 0.1},
    "25 % ALFA": {"poison": "alfa", "share": 0.25},
}
_ONCE: Way = {"way": "floral", "mode": "one_shot", "rounds": 1, "rule": "average"}
HEADS: Mapping[str, Way] = {
    "SVM heads": {**_ONCE, "way": "svm", "flips": 0.0},
    "control, k 0": {**_ONCE, "flips": 0.0},
    "FLORAL, k 0.02 n": {**_ONCE, "flips": 0.02},
}
COUPLED: Mapping[str, Way] = {
    "control, k 0, coupled, 5 rounds": {**_ONCE, "flips": 0.0, "mode": "coupled", "rounds": 5},
    "FLORAL, k 0.02 n, coupled, 5 rounds": {**_ONCE, "flips": 0.02, "mode": "coupled", "rounds": 5},
}
MEDIAN: Mapping[str, Way] = {f"{name}, median": {**way, "rule": "median"} for name, way in HEADS.items()}
FLEETS: Mapping[str, Way] = {
    "none": {"poison": "", "share": 0.0, "victims": None},
    "all devices 30 % random": {"poison": "random", "share": 0.3, "victims": None},
    "all devices 40 % random": {"poison": "random", "share": 0.4, "victims": None},
    "3 of 8 devices, every label": {"poison": "every", "share": 1.0, "victims": 3},
}
COUNTS = (128, 512)


def cells(options: Options) -> list[Cell]:
    """`quick`: what the bars need."""
    found: list[Cell] = []
    for seed in range(options.seeds):
        for task in ("3 vs 8",) if options.quick else ("3 vs 8", "odd/even"):
            for poison in POISONS.values():
                for name, way in MACHINES.items():
                    if not options.quick or name in SHOWN:
                        found.append({"part": "central", "task": task, **poison, **way, "seed": seed})
        for name, poison in FLEETS.items():
            if not options.quick or name == "all devices 40 % random":
                ways = HEADS if options.quick else {**HEADS, **COUPLED, **MEDIAN}
                found += [{"part": "fleet", **poison, **way, "seed": seed} for way in ways.values()]
        found += [
            {"part": "features", "features": kind, "count": count, "seed": seed}
            for kind in ("fourier", "nystrom")
            for count in COUNTS
        ]
        if not options.quick:
            found += [
                {"part": "central", "task": "3 vs 8", **poison, **MACHINES[name], "gamma": gamma, "seed": seed}
                for gamma in GAMMAS
                for poison in POISONS.values()
                for name in SHOWN
            ]
            found += [
                {"part": "central", "task": "moon", **poison, **way, "seed": seed}
                for poison in MOON_POISONS.values()
                for way in MOON.values()
            ]
    return found


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """One machine, one run over devices, or one set of features."""
    parts = {"central": central.play_central, "fleet": fleet.play_fleet, "features": central.play_features}
    return parts[cell["part"]](cell)


def judge(options: Options, played: Sequence[Played]) -> Report:
    """Bars on 3 against 8, on the fleet, on features and bytes; every game stands beside its control."""

    def values(way: Way, name: str = "accuracy") -> list[float]:
        return [p.value[name] for p in played if way.items() <= p.cell.items() and name in p.value]

    def ahead(one: str, other: str, poison: str) -> tuple[float, float]:
        ground = {"task": "3 vs 8", **POISONS[poison]}
        pairs = zip(values({**ground, **MACHINES[one]}), values({**ground, **MACHINES[other]}), strict=True)
        return mean_spread([a - b for a, b in pairs])

    ours = "FLORAL, k 0.1 n"
    forty = {"part": "fleet", **FLEETS["all devices 40 % random"]}
    pairs = zip(
        values({**forty, **HEADS["FLORAL, k 0.02 n"]}), values({**forty, **HEADS["SVM heads"]}), strict=True
    )  # fmt: skip
    errors = values({"features": "fourier", "count": 512}, "rms")
    up = max(values({"part": "fleet", "way": "floral"}, "bytes_up"))
    random, heaviest = "30 % random", "30 % largest dual weights"
    bars = [
        Bar(f"3 vs 8, {random}: {ours} minus SVM, C 10", GAINS_RANDOM, *ahead(ours, "SVM, C 10", random), sense=">="),
        Bar(f"3 vs 8, {random}: {ours} minus control", BEHIND_CONTROL, *ahead(ours, "control, k 0", random), sense=">="),
        Bar(f"3 vs 8, {heaviest}: {ours} minus SVM, C 10", GAINS_HEAVIEST, *ahead(ours, "SVM, C 10", heaviest), sense=">="),
        Bar(f"3 vs 8, clean: {ours} minus SVM, C 10", COSTS_CLEAN, *ahead(ours, "SVM, C 10", "none"), sense=">="),
        Bar(
            "8 devices, all 40 % random: FLORAL, k 0.02 n minus SVM heads",
            GAINS_FLEET, *mean_spread([a - b for a, b in pairs]), sense=">=",
        ),
        Bar("512 Fourier features: rms error of the kernel x sqrt(512)", ERROR, *mean_spread([512**0.5 * e for e in errors])),
        Bar("8 devices, 512 features: bytes up per device", BYTES, up, 0.0),
    ]  # fmt: skip
    tables = [_central(values, task) for task in ("3 vs 8", "odd/even") if values({"task": task})]
    tables += (
        ([] if options.quick else [_gammas(values)])
        + [_fleet(values)]
        + ([_moon(values)] if values({"task": "moon"}) else [])
        + [_features(values)]
    )
    return Report(bars, tables, NOTES)


def _central(values: Any, task: str) -> Table:
    heads = [name for name, way in MACHINES.items() if values({"task": task, **way})]
    rows = [
        [poison, *(told(values({"task": task, **how, **MACHINES[name]})) for name in heads)] for poison, how in POISONS.items()
    ]
    n = 214 if task == "3 vs 8" else 500
    return Table(f"digits, {task}, n = {n}: accuracy on the other records, mean +- sd", ("poison", *heads), rows)


def _gammas(values: Any) -> Table:
    rows = []
    for poison, how in POISONS.items():
        for gamma in sorted((central.GAMMA, *GAMMAS)):
            ground = {"task": "3 vs 8", **how}
            cells_ = [told(values({**ground, **MACHINES[name], "gamma": gamma})) for name in SHOWN]
            rows.append([poison, f"{gamma:g}", *cells_])
    return Table("digits, 3 vs 8, by the width of the kernel: accuracy, mean +- sd", ("poison", "gamma", *SHOWN), rows)


def _fleet(values: Any) -> Table:
    ways = {name: way for name, way in {**HEADS, **COUPLED, **MEDIAN}.items() if values({"part": "fleet", **way})}
    rows = [
        [name, *(told(values({"part": "fleet", **poison, **way})) for way in ways.values())]
        for name, poison in FLEETS.items()
        if values({"part": "fleet", **poison})
    ]
    return Table("odd/even digits, 8 devices x 150, 512 features: accuracy, mean +- sd", ("poison", *ways), rows)


def _moon(values: Any) -> Table:
    heads = ("training labels", "machine", "averaged", "last round", "mean over rounds", "best round (picked on the test set)")
    rows = []
    for poison, how in MOON_POISONS.items():
        for name, way in MOON.items():
            cells_ = [values({"task": "moon", **how, **way}, of) for of in ("accuracy", "last", "mean", "best")]
            rows.append([poison, name, *(told(one) if one else "" for one in cells_)])
    return Table("two moons, 500 records: accuracy on 1,000 test records, mean +- sd", heads, rows)


def _features(values: Any) -> Table:
    rows = [
        [kind, str(count), *(told(values({"features": kind, "count": count}, of)) for of in ("rms", "largest"))]
        for kind in ("fourier", "nystrom")
        for count in COUNTS
    ]
    return Table("features of 400 digits: error of the kernel, mean +- sd", ("features", "m", "rms", "largest"), rows)


NOTES = (
    "Control: the same step and rounds without an attacker; only the difference from it is the game's doing. Read-outs are "
    "averaged over the last two thirds of the rounds unless a column says otherwise.",
    "gamma 0.1 on the digits, near 1 / (inputs x variance) = 0.11; C 10 in every game; B = 2k. SVM: scikit-learn's SVC.",
    "random: labels drawn at random. largest dual weights: the records with the largest weights of an SVM (C 10) trained on "
    "the clean labels. heavy: half of twice as many of those, drawn at random. LFA: greedy on held-out error, the "
    f"{central.LFA_CANDIDATES} farthest records tried at each step. ALFA: Xiao et al. 2012.",
    "released default: the authors' step 1e-4, 501 rounds, fixed-point projection; gamma 0.5.",
    "SVM heads: an SVC on the same features on each device, heads averaged with equal weights.",
)
