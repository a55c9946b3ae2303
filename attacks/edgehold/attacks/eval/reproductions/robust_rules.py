"""Robust rules: with liars among the clients the average fails, and a rule keeps the accuracy that honest clients reach.

Ten honest clients hold the data; f liars join them, know every honest update of the round, and all send the same lie. Each
cell names rule, attack, f, partition and seed. Source of the set-up: Allouah et al. 2023 (nearest-neighbour mixing), scaled:
a perceptron and one local epoch per round instead of a convolutional network and one step.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgehold.attacks.byzantine.alie import Alie
from edgehold.attacks.byzantine.optimised import Optimised
from edgehold.attacks.byzantine.plot import Plot
from edgehold.attacks.byzantine.sight import Attack
from edgehold.attacks.byzantine.sign_flip import SignFlip
from edgehold.attacks.eval.bars import Bar, Report, Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.eval.reproductions import Options
from edgehold.core.errors import FlError
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

NAME = "robust_rules"
SUMMARY = "Average against robust rules, 10 honest clients and 1 to 4 liars, three attacks, even to one class per client"

HONEST = 10
RULES = ("average", "median", "trimmed_mean", "krum", "nnm+trimmed_mean")
DEFENCE = "nnm+trimmed_mean"
CLEAN = "none"
_GRID = (-20.0, -5.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 5.0, 20.0)
ATTACKS: dict[str, Attack] = {
    "sign flip x5": SignFlip(5.0),
    "ALIE z1.5": Alie(1.5, 0, 0.0),
    "ALIE searched": Optimised("alie", _GRID, 4, 0),
    "IPM searched": Optimised("ipm", _GRID, 4, 0),
}
"""Searches ask the server itself, one of its rounds a try: with fewer tries than the attack makes by default."""
PARTITIONS: dict[str, dict[str, Any]] = {
    "iid": {"partition": "iid"},
    "dirichlet 0.1": {"partition": "dirichlet", "alpha": 0.1, "min_records": 8},
    "one class": {"partition": "one-class"},
}
CHANCE = 0.1
LIARS = (1, 2, 3, 4)
JUDGED = 2
"""How many liars the bars are about, on even data."""
WITHIN, FALL = 0.03, 0.30
WON = 0.02
"""Accuracy an attack must cost the plain average for its defeat to count."""


@dataclass(frozen=True, slots=True)
class Scale:
    """limit: records per client; hidden: width of the perceptron."""

    dataset: str
    hidden: int
    limit: int
    rounds: int
    local_epochs: int
    learning_rate: float


FULL = Scale("fashion-mnist", 32, 300, 30, 1, 0.1)
QUICK = Scale("digits", 32, 144, 25, 2, 0.2)


def cells(options: Options) -> list[Cell]:
    """Clean runs and every attack for every rule; what the bars need with every seed, the rest of the table with one."""
    found: list[Cell] = []
    partitions = ("iid",) if options.quick else tuple(PARTITIONS)
    for partition in partitions:
        found += [_cell(options, "average", CLEAN, 0, partition, seed) for seed in range(options.seeds)]
        for liars in (JUDGED,) if options.quick else LIARS:
            for rule in ("average", DEFENCE) if options.quick else RULES:
                for attack in ATTACKS:
                    judged = partition == "iid" and liars == JUDGED and rule in ("average", DEFENCE)
                    seeds = options.seeds if judged else 1
                    found += [_cell(options, rule, attack, liars, partition, seed) for seed in range(seeds)]
        if not options.quick:
            found += [_cell(options, rule, CLEAN, 0, partition, 0, JUDGED) for rule in RULES if rule != "average"]
    return found


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """Accuracy on the test set after the last round; `broken` when the model blew up so far that the run could not go on."""
    clients = HONEST + cell["liars"]
    path = "" if cell["dataset"] == "digits" or data is None else str(data / cell["dataset"])
    dealt = PARTITIONS[cell["partition"]] | {
        "dataset": cell["dataset"], "path": path, "holders": HONEST, "limit": cell["limit"], "seed": cell["seed"],
        "model": "mlp", "net": {"hidden": [cell["hidden"]]},
    }  # fmt: skip
    fleet = engine.VirtualFleet("edgehold.attacks.eval.data:make_task", dealt, clients)
    members = frozenset(list(fleet)[HONEST:])
    conspiracy = Plot(members, ATTACKS[cell["attack"]]) if members else None
    plan, settings = parse_plan(_plan(cell, clients), registry.method)
    try:
        result = engine.run(plan, settings, fleet, fleet.own_copy(), conspiracy=conspiracy)
    except FlError as error:
        if conspiracy is None or "updates admitted" not in error.message:
            raise
        return {"accuracy": CHANCE, "broken": 1.0}
    return {"accuracy": result.rounds[-1]["accuracy"]}


def judge(options: Options, played: Sequence[Played]) -> Report:
    """Bars on even data with two liars; tables per partition."""
    clean = _scores(played, "average", CLEAN, 0, "iid")
    bars, falls = [], {}
    for attack in ATTACKS:
        open_ = _scores(played, "average", attack, JUDGED, "iid")
        kept = _scores(played, DEFENCE, attack, JUDGED, "iid")
        falls[attack] = [c - a for c, a in zip(clean, open_, strict=True)]
        gap = [c - k for c, k in zip(clean, kept, strict=True)]
        bars.append(Bar(f"iid, f = {JUDGED}, {attack}: clean minus {DEFENCE}", WITHIN, *mean_spread(gap)))
    worst = max(falls, key=lambda attack: statistics.fmean(falls[attack]))
    bars.append(Bar(f"iid, f = {JUDGED}, {worst}: clean minus average", FALL, *mean_spread(falls[worst]), sense=">="))
    notes = [
        f"{attack}: costs the plain average {100 * statistics.fmean(fall):.1f} points (iid, f = {JUDGED})"
        + ("." if statistics.fmean(fall) >= WON else f", less than {100 * WON:.0f}: withstanding it proves nothing.")
        for attack, fall in falls.items()
    ]
    if any("broken" in one.value for one in played):
        notes.append(
            f"A run in which honest updates stopped being finite, because the attack blew up the model, counts as {CHANCE}."
        )
    return Report(bars, [_table(played, partition) for partition in _partitions(played)], notes)


def _table(played: Sequence[Played], partition: str) -> Table:
    """Accuracy by rule and attack (rows) and liars (columns)."""
    liars = sorted({p.cell["liars"] for p in played} - {0})
    rows = []
    for rule in RULES:
        calm = [p for p in played if p.cell["attack"] == CLEAN and (p.cell["rule"], p.cell["partition"]) == (rule, partition)]
        if calm:
            rows.append([rule, "nobody lies", *[told([p.value["accuracy"] for p in calm])] * len(liars)])
        for attack in ATTACKS:
            scores = [_scores(played, rule, attack, f, partition) for f in liars]
            if any(scores):
                rows.append([rule, attack, *(told(found) if found else "" for found in scores)])
    return Table(f"{partition}: accuracy", ("rule", "attack", *(f"f = {f}" for f in liars)), rows)


def _scores(played: Sequence[Played], rule: str, attack: str, liars: int, partition: str) -> list[float]:
    wanted = (rule, attack, liars, partition)
    fields = ("rule", "attack", "liars", "partition")
    return [p.value["accuracy"] for p in played if tuple(p.cell[name] for name in fields) == wanted]


def _partitions(played: Sequence[Played]) -> list[str]:
    return [name for name in PARTITIONS if any(p.cell["partition"] == name for p in played)]


def _cell(
    options: Options, rule: str, attack: str, liars: int, partition: str, seed: int, withstand: int | None = None
) -> Cell:
    scale = QUICK if options.quick or not options.has(FULL.dataset) else FULL
    return {
        "rule": rule, "attack": attack, "liars": liars, "partition": partition, "seed": seed,
        "withstand": (0 if rule == "average" else liars) if withstand is None else withstand,
        "dataset": scale.dataset, "hidden": scale.hidden, "limit": scale.limit, "rounds": scale.rounds,
        "local_epochs": scale.local_epochs, "learning_rate": scale.learning_rate,
    }  # fmt: skip


def _plan(cell: Cell, clients: int) -> str:
    how = {"name": "fedavg", "rule": cell["rule"], "liars": cell["withstand"]}
    how |= {name: cell[name] for name in ("local_epochs", "learning_rate")}
    return whole_cohort("robust-rules", cell["rounds"], cell["seed"], clients, cell["rounds"], how, max_attempts=1)
