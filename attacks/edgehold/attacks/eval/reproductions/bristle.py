"""Bristle: peers of few classes learn the others' from each other, whatever share of them lies.

Source: Verbraeken, de Vos and Pouwelse 2021, arXiv:2110.11006. Scaled: digits behind 256 random ReLU features that are never
trained, ten honest devices with four classes in a row, five training and ten own test records of each.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgehold.attacks.eval.bars import Bar, Report, Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.reproductions import Options
from edgehold.attacks.eval.reproductions.bristle_fleet import EVERYBODY, play_cell

NAME = "bristle"
SUMMARY = "Peers' heads on the digits: alone, mean, median, trimmed, Krum, Bristle; flipped classes, noise, tailored heads"

ROUNDS, PEERS = 160, 10
HOLDS, ABOVE_MEDIAN, TIMES_KRUM, FALLEN = 0.85, 0.15, 1.8, 0.10
BEHIND_MEAN, ABOVE_ALONE = 0.06, 0.40

Way = Mapping[str, Any]
CALM: Way = {"honest": PEERS, "liars": 0, "partition": "classes", "attack": "none"}
FIVE: Way = {**CALM, "liars": 5, "attack": "flip_all"}
TEN: Way = {**CALM, "liars": 10, "attack": "flip_all"}
NOISE: Way = {**CALM, "liars": 5, "attack": "noise"}
EVEN: Way = {"honest": 7, "liars": 3, "partition": "iid", "attack": "flip_all"}
SETTINGS: Mapping[str, Way] = {
    "four classes each, no attack": CALM,
    "+ 5 flip all": FIVE,
    "+ 10 flip all": TEN,
    "+ 5 noise": NOISE,
    "i.i.d., 3 of 10 flip all": EVEN,
}
RULES = ("alone", "mean", "median", "trimmed", "krum", "bristle")
BLIND = ("mean", "median", "trimmed", "krum")
"""Rules that look at no data: also played with devices that keep all that they trained, centred or not, for they do better
with it at times.
"""
WAYS: Mapping[str, Way] = {
    "": {},
    "all that was trained is kept": {"keep": "all"},
    "all kept, heads not centred": {"keep": "all", "centre": False},
}
BASE: Way = {"integrator": "bristle", "keep": "familiar", "budget": EVERYBODY, "norm_factor": 0.0, "shared": 3}
BESIDE: Mapping[str, Way] = {
    "no attack, 4 of 9 heads read": {**CALM, "budget": 4},
    "5 flip all, 4 of 14 heads read": {**FIVE, "budget": 4},
    "5 flip all, judged on all four classes": {**FIVE, "shared": 4},
    "5 noise, columns above 10 times the median not listed": {**NOISE, "norm_factor": 10.0},
    "i.i.d., 8 devices, no attack": {**EVEN, "honest": 8, "liars": 0, "attack": "none"},
    **{
        f"{count} tailored, each for one device": {**CALM, "liars": count, "attack": "tailored"} for count in (1, 3, 5, 10)
    },
}  # fmt: skip


def cells(options: Options) -> list[Cell]:
    """Every rule in every setting; quick: the runs behind the bars alone."""
    barred: list[Way] = [
        *({**CALM, "integrator": rule} for rule in ("alone", "mean", "bristle")),
        *({**FIVE, "integrator": rule} for rule in ("mean", "median", "krum", "bristle")),
        *({**FIVE, "integrator": rule, **way} for rule in ("median", "krum") for name, way in WAYS.items() if name),
        {**TEN, "integrator": "bristle"},
    ]
    table: list[Way] = [{**way, "integrator": rule} for way in SETTINGS.values() for rule in RULES]
    table += [
        {**way, "integrator": rule, **more} for way in (CALM, FIVE) for rule in BLIND for name, more in WAYS.items() if name
    ]  # fmt: skip
    ways = barred if options.quick else [*table, *BESIDE.values()]
    return [{**BASE, **way, "rounds": ROUNDS, "seed": seed} for seed in range(options.seeds) for way in ways]


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """One run."""
    return play_cell(cell)


def judge(options: Options, played: Sequence[Played]) -> Report:
    """Bars on the rows that the specification names; everything else is told."""

    def values(way: Way, name: str = "accuracy", **more: Any) -> list[float]:
        wanted = {**BASE, **way, **more}
        fitting = [p for p in played if ("centre" in p.cell) == ("centre" in wanted)]
        return [p.value[name] for p in fitting if wanted.items() <= p.cell.items()]

    def best(rule: str) -> list[float]:
        return max((values(FIVE, integrator=rule, **way) for way in WAYS.values()), key=statistics.fmean)

    def less(one: list[float], other: list[float]) -> list[float]:
        return [a - b for a, b in zip(one, other, strict=True)]

    calm, five = values(CALM), values(FIVE)
    average, alone = (values(CALM, integrator=rule) for rule in ("mean", "alone"))
    krum = [a / b for a, b in zip(five, best("krum"), strict=True)]
    bars = [
        Bar("5 flip all: accuracy", HOLDS, *mean_spread(five), sense=">="),
        Bar("5 flip all: bristle minus median", ABOVE_MEDIAN, *mean_spread(less(five, best("median"))), sense=">="),
        Bar("5 flip all: bristle over krum", TIMES_KRUM, *mean_spread(krum), sense=">="),
        Bar("5 flip all: mean falls", FALLEN, *mean_spread(values(FIVE, integrator="mean"))),
        Bar("no attack: bristle minus mean", -BEHIND_MEAN, *mean_spread(less(calm, average)), sense=">="),
        Bar("no attack: bristle minus alone", ABOVE_ALONE, *mean_spread(less(calm, alone)), sense=">="),
        Bar("10 flip all: accuracy", HOLDS, *mean_spread(values(TEN)), sense=">="),
    ]  # fmt: skip
    rows = []
    for name, more in WAYS.items():
        for setting, way in SETTINGS.items():
            found = [values(way, integrator=rule, **more) for rule in RULES]
            if any(found):
                label = f"{setting}; {name}" if name else setting
                rows.append([label, *(told(one) if one else "" for one in found)])
    title = f"digits, {PEERS} devices, {ROUNDS} rounds, own heads on the common test set, mean over honest devices, mean +- sd"
    tables = [Table(title, ("setting", *RULES), rows)]
    beside = {**SETTINGS, **BESIDE}
    alone_rows = [
        [label, *(told(values(way, name)) for name in ("accuracy", "worst", "first"))]
        for label, way in beside.items() if values(way)
    ]  # fmt: skip
    tables.append(
        Table("Bristle alone", ("setting", "accuracy", "worst device", "first device, last third of rounds"), alone_rows)
    )
    return Report(bars, tables, NOTES)


NOTES = (
    "flip all: devices with five records of every class train on y -> 9 - y and read nobody; noise: the authors', uniform.",
    "Median and Krum stand in the bars with the best of three ways: own columns kept, all kept, all kept and not centred.",
    "tailored: a head that copies one device's own columns and is -3 times the mean elsewhere, made by colluders who know the "
    "round; everybody reads the same bytes, so that each of them is made for one device. No bar: a measured limit.",
    "i.i.d.: Bristle is expected to lose; it reads three columns of each sender.",
    "Accuracies on 360 test records; on four of ten classes alone nobody is above 0.4.",
)
