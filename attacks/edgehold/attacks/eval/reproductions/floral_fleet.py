"""FLORAL over devices: odd against even digits, eight devices of 150, all of them or three with wrong labels."""

from typing import Any

import numpy as np

from edgehold.attacks.eval.cells import Cell
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.core.plan import parse_plan
from edgehold.core.vectors import Array
from edgehold.defenses import registry
from edgehold.defenses.floral.task import KernelTask
from edgehold.server import engine

CLIENTS, LIMIT, COUNT, GAMMA, COST = 8, 150, 512, 0.1, 10.0
ODD = ["1", "3", "5", "7", "9"]
TASK = "edgehold.attacks.eval.heads:make_task"


def options(cell: Cell) -> dict[str, Any]:
    """Of every device's task."""
    return {
        "dataset": "digits", "positive": ODD, "limit": LIMIT, "seed": cell["seed"], "feature_seed": cell["seed"],
        "gamma": GAMMA, "count": COUNT, "poison": cell["poison"], "share": cell["share"], "victims": cell["victims"],
    }  # fmt: skip


def plan(cell: Cell) -> str:
    """One round, or several coupled ones."""
    how = {
        "name": "floral", "gamma": GAMMA, "count": COUNT, "feature_seed": cell["seed"], "cost": COST, "flips": cell["flips"],
        "mode": cell["mode"], "rule": cell["rule"], "liars": 0 if cell["rule"] == "average" else 3,
    }  # fmt: skip
    return whole_cohort("floral", cell["rounds"], cell["seed"], CLIENTS, cell["rounds"], how)


def play_fleet(cell: Cell) -> dict[str, float]:
    """Accuracy of the combined head on the test records; bytes up and down per device in the last round."""
    fleet = engine.VirtualFleet(TASK, options(cell), CLIENTS)
    own = fleet.own_copy()
    if cell["way"] == "svm":
        heads = [machine(fleet[name]) for name in fleet]
        combined = np.median(heads, axis=0) if cell["rule"] == "median" else np.mean(heads, axis=0)
        return {"accuracy": own.evaluate(combined.astype(np.float32))["accuracy"]}
    last = engine.run(*parse_plan(plan(cell), registry.method), fleet, own).rounds[-1]
    return {
        "accuracy": last["accuracy"],
        "bytes_up": last["bytes_up"] / CLIENTS,
        "bytes_down": last["bytes_down"] / CLIENTS,
    }


def machine(task: Any) -> Array:
    """A device's head from scikit-learn's SVC on the same features, (count + 1,)."""
    from sklearn.svm import SVC

    assert isinstance(task, KernelTask)
    assert task.train_data is not None
    phi, labels = task.features(task.train_data.x), task.train_data.y
    found = SVC(C=COST, kernel="linear").fit(phi, labels)
    return np.append(found.coef_[0], found.intercept_[0])
