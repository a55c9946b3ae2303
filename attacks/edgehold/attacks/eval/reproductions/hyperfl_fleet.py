"""The clients of HyperFL's reproduction: who has what, and how each way of training is played."""

import statistics
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from edgehold.attacks.eval.cells import Cell
from edgehold.attacks.eval.named import Named
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.client.data import tasks
from edgehold.client.data.deal import Deal, deal
from edgehold.core.hyper_layout import Layout
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining
from edgehold.core.torch_personal import Personal
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array, FloatArray, Vector
from edgehold.defenses import registry
from edgehold.defenses.hyperfl.state import Local, layout_of
from edgehold.server import engine

CLIENTS, CLASSES, HELD, LIMIT = 10, 10, 3, 40
EPOCHS, BATCH, MOMENTUM, DECAY = 6, 20, 0.5, 5e-4
TUNED = LocalTraining(20, BATCH, 0.1, MOMENTUM, DECAY)
SHAPE = {"embedding": 8, "hidden": 32}
REPEATABLE = Named("edgehold.attacks.eval.repeatable:make")


def held(client: int) -> list[int]:
    """Classes of a client: three in a row."""
    return [(HELD * client + step) % CLASSES for step in range(HELD)]


def make_task(device_index: int, devices: int, seed: int) -> TorchTask:
    """Client `device_index`: its share of its classes' training records, at most 40, and all test records of these classes.

    -1: nothing to train on, every test record.
    """
    dealt = dealt_by(seed)
    whole = tasks.task_of(dealt, "digits", -1, model="mlp", net={"hidden": [32]})
    if device_index < 0:
        return whole
    train, test, mine = dealt.split.train, dealt.split.test, held(device_index)
    rows: list[Array] = []
    for kind in mine:
        holders = [client for client in range(devices) if kind in held(client)]
        shuffled = stream(seed, "hyperfl", "class", kind).permutation(np.flatnonzero(train.y == kind))
        rows.append(shuffled[holders.index(device_index) :: len(holders)])
    drawn = stream(seed, "hyperfl", "limit", device_index).permutation(np.concatenate(rows))[:LIMIT]
    ours, judged = train.take(drawn), test.take(np.flatnonzero(np.isin(test.y, mine)))
    return replace(whole, train_data=(ours.x, ours.y), test_data=(judged.x, judged.y))


@lru_cache(maxsize=2)
def dealt_by(seed: int) -> Deal:
    """The digits, split into training and test records by `seed`."""
    return deal("digits", devices=1, seed=seed)


def fleet_of(seed: int) -> engine.VirtualFleet:
    """The ten clients."""
    return engine.VirtualFleet(f"{__name__}:make_task", {"seed": seed}, CLIENTS)


def play_training(cell: Cell) -> dict[str, float]:
    """Accuracy of everybody's own model on his own test records; bytes up per client and round."""
    fleet = fleet_of(cell["seed"])
    if cell["method"] == "hyperfl":
        layout, phi, locals_, sent = trained(fleet, cell)
        weights = {name: Personal(own(fleet, name), layout, phi, kept.v, kept.head).weights() for name, kept in locals_.items()}
        return {"accuracy": _judged(fleet, weights), "bytes_up": sent}
    how = LocalTraining(EPOCHS, BATCH, cell["learning_rate"], MOMENTUM, DECAY)
    if cell["method"] == "local":
        whole = replace(how, epochs=EPOCHS * cell["rounds"])
        return {"accuracy": _judged(fleet, {n: _train(own(fleet, n), n, cell["seed"], whole) for n in fleet}), "bytes_up": 0.0}
    if cell["method"] == "fedper":
        return _own_heads(fleet, cell, how)
    plan, settings = parse_plan(_plan("fedavg", cell, {"local_epochs": EPOCHS}), registry.method)
    result = engine.run(plan, settings, fleet)
    model = result.model.whole()
    place = _head(fleet)
    found = {name: tune(own(fleet, name), model, TUNED, place, stream(cell["seed"], "tune", name)) for name in fleet}
    scores = {"accuracy": _judged(fleet, dict.fromkeys(fleet, model)), "tuned": _judged(fleet, found)}
    return scores | {"bytes_up": result.rounds[-1]["bytes_up"] / CLIENTS}


def trained(fleet: engine.VirtualFleet, cell: Cell) -> tuple[Layout, FloatArray, dict[str, Local], float]:
    """Layout, phi after the last round, what each client keeps, and bytes of an update."""
    more = {"head_epochs": 1, "local_epochs": EPOCHS - 1, "rank": cell["rank"], **SHAPE}
    plan, settings = parse_plan(_plan("hyperfl", cell, more), registry.method)
    store = engine.Store()
    result = engine.run(plan, settings, fleet, None, dict.fromkeys(fleet, REPEATABLE), store=store)
    kept = store.kept()
    assert kept is not None
    half = registry.client_side("hyperfl")
    locals_ = {name: half.load(store.local(name) or b"") for name in fleet}
    layout = layout_of(fleet[min(fleet)].schema, settings)
    return layout, Vector(kept.packed.blobs["model"]).whole(), locals_, result.rounds[-1]["bytes_up"] / CLIENTS


def own(fleet: Mapping[str, Any], name: str) -> TorchTask:
    """A client's task."""
    task = fleet[name]
    assert isinstance(task, TorchTask)
    return task


def tune(task: TorchTask, start: FloatArray, how: LocalTraining, place: slice, rng: np.random.Generator) -> FloatArray:
    """SGD on the numbers at `place` alone, the others stand still."""
    import torch

    found, velocity = torch.from_numpy(start.copy()), torch.zeros(len(range(*place.indices(len(start)))))

    def begin(flat: Any) -> None:
        flat.copy_(found)

    def step(flat: Any, gradient: Any) -> None:
        velocity.mul_(how.momentum).add_(gradient[place]).add_(flat[place], alpha=how.weight_decay)
        flat[place] -= how.learning_rate * velocity
        found.copy_(flat)

    task.train_by(begin, step, how, rng)
    return found.numpy().copy()


def _own_heads(fleet: engine.VirtualFleet, cell: Cell, how: LocalTraining) -> dict[str, float]:
    """One epoch on the head, then five on the extractor, which is averaged by records."""
    head, seed = _head(fleet), cell["seed"]
    body = slice(0, head.start)
    models = {name: own(fleet, name).initial(seed) for name in fleet}
    counts = [fleet[name].samples for name in fleet]
    for number in range(cell["rounds"]):
        for name in fleet:
            rng = stream(seed, "fedper", number, name)
            ready = tune(own(fleet, name), models[name], replace(how, epochs=1), head, rng)
            models[name] = tune(own(fleet, name), ready, replace(how, epochs=EPOCHS - 1), body, rng)
        mean = np.average([models[name][body] for name in fleet], axis=0, weights=counts)
        for name in fleet:
            models[name][body] = mean
    return {"accuracy": _judged(fleet, models), "bytes_up": 4.0 * head.start}


def _head(fleet: Mapping[str, Any]) -> slice:
    schema = fleet[min(fleet)].schema
    return slice(Layout.of(schema, 1, 1).extractor_size, schema.size)


def _train(task: TorchTask, name: str, seed: int, how: LocalTraining) -> FloatArray:
    return task.train(task.initial(seed), how, stream(seed, "local", name))


def _judged(fleet: Mapping[str, Any], weights: Mapping[str, FloatArray]) -> float:
    return statistics.fmean(own(fleet, name).evaluate(one)["accuracy"] for name, one in weights.items())


def _plan(method: str, cell: Cell, more: Mapping[str, Any]) -> str:
    how = {"learning_rate": cell["learning_rate"], "batch_size": BATCH, "momentum": MOMENTUM, "weight_decay": DECAY, **more}
    return whole_cohort("hyperfl", cell["rounds"], cell["seed"], CLIENTS, 0, {"name": method, **how})
