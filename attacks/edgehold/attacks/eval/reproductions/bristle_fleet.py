"""The devices of Bristle's reproduction: who has what, who lies, and how one run is played."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgehold.attacks.byzantine.heads import tailored
from edgehold.attacks.eval.cells import Cell
from edgehold.attacks.eval.named import Named
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.client.data import frozen
from edgehold.core.plan import parse_plan
from edgehold.core.tables import TableTask
from edgehold.core.vectors import Array, Vector
from edgehold.defenses import registry
from edgehold.server import engine

CLASSES, WIDTH, PER_CLASS, HELD = 10, 256, 5, 10
EVERYBODY = 1000
"""A budget above any number of peers: all to all."""


def familiar(device: int, honest: int, iid: bool) -> list[int]:
    """Classes of a device: four in a row; all of them where the data are i.i.d., and for those who lie."""
    return frozen.in_a_row(device, 0 if iid or device >= honest else 4, CLASSES)


def make_task(device_index: int, devices: int, honest: int, iid: bool, seed: int) -> TableTask:
    """The first `honest` devices have 5 training and 10 own test records of each of their classes, the others 5 of all."""
    split = frozen.split_of("digits", seed=seed)
    features = frozen.RandomFeatures(64, WIDTH, seed)
    if device_index < 0:
        return frozen.task_of(split, features, None, None)
    labels = split.train.y
    classes = [familiar(one, honest, iid) for one in range(honest)]
    if device_index < honest:
        return frozen.task_of(split, features, *frozen.rows_of(labels, classes, device_index, PER_CLASS, HELD, seed))
    rows = []
    for kind in range(CLASSES):
        start = (PER_CLASS + HELD) * sum(kind in one for one in classes) + PER_CLASS * (device_index - honest)
        rows.append(frozen.members_of(labels, kind, seed)[start : start + PER_CLASS])
    return frozen.task_of(split, features, np.concatenate(rows), None)


@dataclass(frozen=True)
class Tailors:
    """Colluders who know the round: each sends a head made for one honest device. aims: colluder -> (device, its classes)."""

    aims: Mapping[str, tuple[str, tuple[int, ...]]]

    @property
    def members(self) -> frozenset[str]:
        """The colluders."""
        return frozenset(self.aims)

    def lie(self, view: engine.View) -> Mapping[str, Any]:
        """See `tailored`."""
        heads: dict[str, Array] = {
            client: update.head.whole().reshape(WIDTH, CLASSES) for client, update in view.honest.items()
        }  # fmt: skip
        found = {}
        for member, update in view.own.items():
            receiver, classes = self.aims[member]
            found[member] = replace(update, head=Vector.of(tailored(heads, receiver, np.array(classes))))
        return found


def play_cell(cell: Cell) -> dict[str, float]:
    """accuracy: mean over honest devices of their own head's on the common test set; first: the first device's alone, mean over
    the last third of the rounds, as the authors report; bytes_up, bytes_order: per device, in the last round.
    """
    honest, liars, iid = cell["honest"], cell["liars"], cell["partition"] == "iid"
    options = {"honest": honest, "iid": iid, "seed": cell["seed"]}
    fleet = engine.VirtualFleet(f"{__name__}:make_task", options, honest + liars)
    names = list(fleet)
    own, half, store = fleet.own_copy(), registry.client_side("bristle"), engine.Store()
    adversaries, conspiracy = {}, None
    if cell["attack"] == "tailored":
        aims = {name: (names[at], tuple(familiar(at, honest, iid))) for at, name in enumerate(names[honest:])}
        conspiracy = Tailors(aims)
    elif cell["attack"] != "none":
        adversaries = dict.fromkeys(names[honest:], Named("edgehold.attacks.byzantine.heads:make", {"lie": cell["attack"]}))

    def accuracy(name: str) -> float:
        return own.evaluate(half.load(store.local(name) or b"").kept.reshape(-1))["accuracy"]

    late: list[float] = []

    def look(number: int, facts: Mapping[str, float]) -> None:
        if number > cell["rounds"] * 2 / 3:
            late.append(accuracy(names[0]))

    plan = whole_cohort("bristle", cell["rounds"], cell["seed"], honest + liars, 0, _method(cell))
    result = engine.run(
        *parse_plan(plan, registry.method), fleet, None, adversaries, look, conspiracy=conspiracy, store=store
    )  # fmt: skip
    last = result.rounds[-1]
    return {
        "accuracy": statistics.fmean(accuracy(name) for name in names[:honest]),
        "worst": min(accuracy(name) for name in names[:honest]),
        "first": statistics.fmean(late),
        "left_out": statistics.fmean(one["heads_left_out"] for one in result.rounds),
        "bytes_up": last["bytes_up"] / len(names),
        "bytes_order": last["bytes_down"] / len(names),
    }


def _method(cell: Cell) -> dict[str, Any]:
    how = {key: cell[key] for key in ("integrator", "keep", "budget", "norm_factor", "shared")}
    return {"name": "bristle", "learning_rate": 0.01, "batch_size": 5, "liars": cell["liars"], **how}
