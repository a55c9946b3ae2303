"""HyperFL: models generated for each device do as well as its own; an update of one step gives its input away.

Source: Guo et al. 2025, arXiv:2412.07187. Scaled: digits, 10 clients of three classes and 40 training images each, perceptron
64-32-10, embedding 8, hidden 32. Part of the gain over FedAvg is personalisation: FedAvg has one model for skewed clients.
So its head is also tuned on each device, and a shared extractor behind own heads (as in FedPer, Arivazhagan et al. 2019,
arXiv:1912.00818) is played beside it.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgehold.attacks.eval.bars import Bar, Report, Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.reproductions import Options
from edgehold.attacks.eval.reproductions.hyperfl_fleet import CLIENTS, play_training
from edgehold.attacks.eval.reproductions.hyperfl_leak import play_leak

NAME = "hyperfl"
SUMMARY = "Generated models on the digits: accuracy on each client's own classes, bytes, and what an update gives away"

ROUNDS = 40
LEAST, AHEAD, BEHIND = 0.95, 0.015, 0.01
EXACT, HIDDEN = 1e-6, 0.1
RATES = (0.1, 0.2, 0.4, 0.8)
"""Tried for everybody but HyperFL, which has the specified 0.1: the best mean over seeds, on the same test sets, is taken."""
RANKS = (0, 4, 1)
NOISES = (0.0, 0.01, 0.1, 1.0)

Way = Mapping[str, Any]
LEAKS: tuple[Way, ...] = (
    *({"of": "hyperfl", "noise": noise} for noise in (0.0, 1.0)),
    *({"of": "fedavg", "noise": noise} for noise in (0.0, 1.0)),
)
BESIDE: tuple[Way, ...] = (
    *({"of": of, "noise": noise} for noise in NOISES[1:-1] for of in ("hyperfl", "fedavg")),
    {"of": "hyperfl", "noise": 0.0, "rank": 4},
    {"of": "hyperfl", "noise": 0.0, "epochs": 5},
    {"of": "hyperfl", "noise": 0.0, "records": 2},
    {"of": "hyperfl", "noise": 0.0, "rounds": ROUNDS},
)
PLAIN: Way = {"rank": 0, "epochs": 1, "records": 1, "rounds": 0}


def cells(options: Options) -> list[Cell]:
    """Everybody's training, then what is read from updates."""
    rates = RATES[1:2] if options.quick else RATES
    ranks = RANKS[:1] if options.quick else RANKS
    ways: list[Way] = [{"method": "hyperfl", "rank": rank, "learning_rate": 0.1} for rank in ranks]
    others = ("fedavg", "local") if options.quick else ("fedavg", "local", "fedper")
    ways += [{"method": method, "rank": 0, "learning_rate": rate} for method in others for rate in rates]
    leaks = LEAKS if options.quick else (*LEAKS, *BESIDE)
    return [
        *({**way, "rounds": ROUNDS, "seed": seed} for seed in range(options.seeds) for way in ways),
        *({"method": "leak", **PLAIN, **way, "seed": seed} for seed in range(options.seeds) for way in leaks),
    ]


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """Mean over clients of the accuracy of each one's model on its own test records, and bytes; or errors of what was read."""
    return play_leak(cell) if cell["method"] == "leak" else play_training(cell)


def judge(options: Options, played: Sequence[Played]) -> Report:
    """Bars on the dense hypernetwork; low rank, the other methods and the other readings are told."""

    def values(name: str, **wanted: Any) -> list[float]:
        fitting = [p for p in played if wanted.items() <= p.cell.items() and name in p.value]
        return [p.value[name] for p in fitting]

    def best(method: str, name: str = "accuracy") -> tuple[float, list[float]]:
        rates = sorted({p.cell["learning_rate"] for p in played if p.cell["method"] == method})
        found = {rate: values(name, method=method, learning_rate=rate) for rate in rates}
        rate = max(found, key=lambda one: statistics.fmean(found[one]))
        return rate, found[rate]

    def leak(name: str, way: Way) -> list[float]:
        return values(name, **{"method": "leak", **PLAIN, **way})

    ours = values("accuracy", method="hyperfl", rank=0)
    gaps = {name: [a - b for a, b in zip(ours, best(name)[1], strict=True)] for name in ("fedavg", "local")}
    bars = [
        Bar("hyperfl: accuracy on own test records", LEAST, *mean_spread(ours), sense=">="),
        Bar("hyperfl minus fedavg", AHEAD, *mean_spread(gaps["fedavg"]), sense=">="),
        Bar("hyperfl minus local only", -BEHIND, *mean_spread(gaps["local"]), sense=">="),
        Bar("record read from an update, unprotected: largest error", EXACT, max(leak("largest", LEAKS[0])), 0.0),
        Bar(
            "under noise of the update's norm: smallest error, of the data's variance",
            HIDDEN, min(leak("smallest_share", LEAKS[1])), 0.0, sense=">=",
        ),
    ]  # fmt: skip
    rows = []
    for rank in RANKS:
        if scores := values("accuracy", method="hyperfl", rank=rank):
            size = f"{values('bytes_up', method='hyperfl', rank=rank)[0]:.0f}"
            rows.append([f"hyperfl, rank {rank}" if rank else "hyperfl", "0.1", told(scores), size])
    for method, name, label in (
        ("fedavg", "accuracy", "fedavg, one model for all"),
        ("fedavg", "tuned", "fedavg, head tuned on each device"),
        ("fedper", "accuracy", "shared extractor, own heads"),
        ("local", "accuracy", "local only"),
    ):
        if values(name, method=method):
            rate, scores = best(method, name)
            size = f"{values('bytes_up', method=method)[0]:.0f}"
            rows.append([label, f"{rate:g}", told(scores), size])
    title = f"digits, {CLIENTS} clients of three classes, 64-32-10, {ROUNDS} rounds, own test records, mean +- sd"
    tables = [Table(title, ("way", "rate", "accuracy", "bytes up"), rows)]
    read = []
    for way in LEAKS if options.quick else (*LEAKS, *BESIDE):
        what = ", ".join(f"{key} {value}" for key, value in way.items() if key not in ("of", "noise"))
        shares, largest = leak("share", way), max(leak("largest", way))
        weights = leak("weights", way)
        read.append([
            way["of"], what, f"{way['noise']:g}", f"{statistics.fmean(leak('exact', way)):.2f}", f"{largest:.1e}",
            f"{statistics.median(shares):.1e}", f"{max(weights):.1e}" if weights else "",
        ])  # fmt: skip
    heads = (
        "method", "other than one record, one step, first round", "noise", "records read exactly", "largest error",
        "error of the data's variance, median over seeds", "extractor's weights: largest error",
    )  # fmt: skip
    tables.append(Table(f"what is read from an update: {CLIENTS} records per seed, mean squared error per pixel", heads, read))
    return Report(bars, tables, NOTES)


NOTES = (
    "FedAvg is one model judged on clients of three classes each: part of the gap is personalisation, not the hypernetwork.",
    f"rate: of hypernetwork or model; for the others the best of {', '.join(map(str, RATES))} on the same test sets.",
    "All train six epochs per round over their own records, in batches of 20, momentum 0.5, decay 5e-4; hyperfl and own heads: "
    "one of them for the head alone. Tuned: 20 epochs on the head after the last round, rate 0.1.",
    "noise: standard deviation of Gaussian noise on each number of the update, over the update's Euclidean norm.",
    "Exactly: mean squared error below 1e-6 per pixel in 0..1. The reader knows order and update, not head or embedding.",
    "records 2: two records in the batch; the error is that to the nearer of the two.",
    f"rounds {ROUNDS}: after training, from a record the device has trained on, whose gradient is small by then.",
)
