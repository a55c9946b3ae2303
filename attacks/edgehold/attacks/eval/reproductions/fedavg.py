"""FedAvg: federated training on even data loses nothing against training on all the data in one place.

Source: McMahan et al. 2017, arXiv:1602.05629. Scaled: 10 clients that all take part, small perceptrons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgehold.attacks.eval.bars import Bar, Report, Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.data import make_task
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.eval.reproductions import Options
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining
from edgehold.defenses import registry
from edgehold.server import engine

NAME = "fedavg"
SUMMARY = "Within a point of central training on even data (digits, Fashion-MNIST); uneven data told"

CLIENTS = 10
WITHIN = 0.01


@dataclass(frozen=True, slots=True)
class Scale:
    """central, central_rate: epochs and learning rate of the central reference, at its best."""

    dataset: str
    hidden: int
    rounds: int
    local_epochs: int
    central: int
    learning_rate: float
    central_rate: float
    momentum: float = 0.9


SCALES = (
    Scale("digits", 64, 60, 5, 60, 0.1, 0.1),
    Scale("fashion-mnist", 64, 30, 1, 15, 0.02, 0.01),
)
QUICK = (Scale("digits", 64, 40, 5, 30, 0.1, 0.1),)
PARTITIONS: dict[str, dict[str, Any]] = {
    "iid": {"partition": "iid"},
    "dirichlet 1": {"partition": "dirichlet", "alpha": 1.0, "min_records": 8},
    "dirichlet 0.1": {"partition": "dirichlet", "alpha": 0.1, "min_records": 8},
    "one class": {"partition": "one-class"},
}


def cells(options: Options) -> list[Cell]:
    """Central and federated runs of every seed."""
    found: list[Cell] = []
    for scale in _scales(options):
        for where in ("central", *PARTITIONS):
            for seed in range(options.seeds):
                alone = where == "central"
                found.append(
                    {
                        "dataset": scale.dataset,
                        "where": where,
                        "seed": seed,
                        "hidden": scale.hidden,
                        "rounds": scale.central if alone else scale.rounds,
                        "local_epochs": 1 if alone else scale.local_epochs,
                        "learning_rate": scale.central_rate if alone else scale.learning_rate,
                        "momentum": scale.momentum,
                    }  # fmt: skip
                )
    return found


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """Accuracy on the test set."""
    path = "" if cell["dataset"] == "digits" or data is None else str(data / cell["dataset"])
    base: dict[str, Any] = {"dataset": cell["dataset"], "path": path, "model": "mlp", "net": {"hidden": [cell["hidden"]]}}
    if cell["where"] == "central":
        task = make_task(device_index=0, devices=1, seed=cell["seed"], **base)
        how = LocalTraining(cell["rounds"], 32, cell["learning_rate"], cell["momentum"])
        weights = task.train(task.initial(cell["seed"]), how, stream(cell["seed"], "central"))
        own = make_task(device_index=None, devices=1, seed=cell["seed"], **base)
        return {"accuracy": own.evaluate(weights)["accuracy"]}
    plan, settings = parse_plan(_plan(cell), registry.method)
    dealt = base | PARTITIONS[cell["where"]] | {"seed": cell["seed"]}
    fleet = engine.VirtualFleet("edgehold.attacks.eval.data:make_task", dealt, CLIENTS)
    result = engine.run(plan, settings, fleet, fleet.own_copy())
    return {"accuracy": result.rounds[-1]["accuracy"]}


def judge(options: Options, played: Sequence[Played]) -> Report:
    """Bar per data set: central minus federated accuracy on even data, seed by seed."""
    bars, tables = [], []
    for scale in _scales(options):
        found = {
            where: [p.value["accuracy"] for p in played if p.cell["dataset"] == scale.dataset and p.cell["where"] == where]
            for where in ("central", *PARTITIONS)
        }
        gaps = [central - federated for central, federated in zip(found["central"], found["iid"], strict=True)]
        bars.append(Bar(f"{scale.dataset}, iid: central minus federated accuracy", WITHIN, *mean_spread(gaps)))
        rows = [[where, told(scores), told([c - s for c, s in zip(found["central"], scores, strict=True)])]
                for where, scores in found.items()]  # fmt: skip
        title = f"{scale.dataset}: {CLIENTS} clients, {scale.rounds} rounds of {scale.local_epochs} local epoch(s), mean +- sd"
        tables.append(Table(title, ("data", "accuracy", "below central"), rows))
    notes = [
        f"Central: the same model trained on all records for {' / '.join(f'{s.central}' for s in _scales(options))} epochs."
    ]
    if not options.quick and not options.has("fashion-mnist"):
        notes.append("Fashion-MNIST left out: no folder fashion-mnist in the data folder (--data or EDGEHOLD_DATA).")
    return Report(bars, tables, notes)


def _scales(options: Options) -> list[Scale]:
    return [scale for scale in (QUICK if options.quick else SCALES) if options.has(scale.dataset)]


def _plan(cell: Cell) -> str:
    how = {name: cell[name] for name in ("local_epochs", "learning_rate", "momentum")}
    return whole_cohort("fedavg", cell["rounds"], cell["seed"], CLIENTS, cell["rounds"], {"name": "fedavg", **how})
