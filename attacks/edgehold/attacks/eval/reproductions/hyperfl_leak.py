"""What HyperFL's reproduction reads from updates: one record per client, with and without noise, beside FedAvg's."""

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgehold.attacks.eval.cells import Cell
from edgehold.attacks.eval.reproductions.hyperfl_fleet import BATCH, DECAY, MOMENTUM, SHAPE, dealt_by, fleet_of, own, trained
from edgehold.attacks.inversion import analytic, hypernetwork
from edgehold.core.contract import Cohort
from edgehold.core.hyper import code, generated
from edgehold.core.rng import stream
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Vector
from edgehold.defenses import registry
from edgehold.defenses.hyperfl.client import HyperFLClient
from edgehold.defenses.hyperfl.state import Local, layout_of


def play_leak(cell: Cell) -> dict[str, float]:
    """Errors of reading each client's record from its update. largest, smallest: of the mean squared errors; share: mean of
    them over the data's variance; exact: share of records read; weights: largest error of an extractor's weight, unprotected.
    """
    fleet, seed = fleet_of(cell["seed"]), cell["seed"]
    records = np.asarray(dealt_by(seed).split.test.x)
    half: Any
    read: Any
    states: Mapping[str, Any] = {}
    if cell["of"] == "hyperfl":
        half, read = HyperFLClient(draw=lambda: b""), hypernetwork.invert
        how = {"head_epochs": 1, "local_epochs": cell["epochs"], "learning_rate": 0.1, "rank": cell["rank"], **SHAPE}
    else:
        half, read = registry.client_side("fedavg"), analytic.invert
        how = {"local_epochs": cell["epochs"], "learning_rate": 0.1}
    settings = registry.method(cell["of"]).settings(batch_size=BATCH, momentum=MOMENTUM, weight_decay=DECAY, **how)
    own_copy = fleet.own_copy()
    server = registry.server_side(cell["of"], settings, own_copy.schema, seed)
    order = server.open(server.start(Vector.of(own_copy.initial(seed))), Cohort(1, tuple(fleet)))
    if cell["rounds"]:
        _, phi, states, _ = trained(fleet, {**cell, "learning_rate": 0.1})
        order = replace(order, phi=Vector.of(phi))
    verdicts, apart = [], [0.0]
    for name in fleet:
        task, rng = own(fleet, name), stream(seed, "leak", name)
        assert task.train_data is not None
        few = replace(task, train_data=tuple(part[: cell["records"]] for part in task.train_data), test_data=None)
        local = states[name] if states else half.begin(order, few, rng)
        _, update, _ = half.work(order, local, few, rng)
        if cell["of"] == "hyperfl" and not cell["noise"]:
            apart.append(_weights_apart(order, update, few, local))
        seen = noisy(update, cell["noise"], stream(seed, "noise", name))
        found = read(order, seen, few.schema)
        assert few.train_data is not None
        judged = [analytic.judge(found, record, records) for record in np.asarray(few.train_data[0])]
        verdicts.append(min(judged, key=lambda one: one.mse))
    errors, shares = [one.mse for one in verdicts], [one.mse / one.variance for one in verdicts]
    told = {"largest": max(errors), "smallest_share": min(shares), "share": statistics.fmean(shares)}
    told["exact"] = statistics.fmean(float(one.exact) for one in verdicts)
    return told | ({"weights": max(apart)} if len(apart) > 1 else {})


def noisy(update: Any, multiplier: float, rng: np.random.Generator) -> Any:
    """The update with Gaussian noise on each number, of `multiplier` times its Euclidean norm."""
    delta = update.delta.whole()
    noise = rng.standard_normal(len(delta)) * multiplier * float(np.linalg.norm(delta))
    return replace(update, delta=Vector.of((delta + noise).astype(np.float32)), norm=None)


def _weights_apart(order: Any, update: Any, task: TorchTask, local: Local) -> float:
    layout = layout_of(task.schema, order.training)
    theta = np.concatenate(list(generated(layout, order.phi, code(layout, order.phi, local.v))))
    return float(np.abs(hypernetwork.read(order, update, task.schema).theta - theta).max())
