"""The devices of Bristle's reproduction: who has what, who lies, and how one run is played."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgehold.attacks.byzantine.heads import make, tailored
from edgehold.attacks.eval.cells import Cell
from edgehold.attacks.eval.named import Named
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.client.data import frozen
from edgehold.core.plan import parse_plan
from edgehold.core.streams import client_stream
from edgehold.core.tables import TableTask
from edgehold.core.vectors import Array, FloatArray, Vector
from edgehold.defenses import registry
from edgehold.defenses.bristle.client import BristleClient, device_of, merged
from edgehold.defenses.bristle.state import SKETCH, Local, Order, Training
from edgehold.defenses.bristle.training import trained
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
    own, first, late = fleet_of(cell).own_copy(), "", []
    heads: Mapping[str, FloatArray] = {}
    for number, heads in enumerate(rounds(cell), start=1):
        first = first or min(heads)
        if number > cell["rounds"] * 2 / 3:
            late.append(own.evaluate(heads[first].reshape(-1))["accuracy"])
    found = [own.evaluate(head.reshape(-1))["accuracy"] for head in heads.values()]
    return {"accuracy": statistics.fmean(found), "worst": min(found), "first": statistics.fmean(late)}


def rounds(cell: Cell) -> Iterator[dict[str, FloatArray]]:
    """Own heads (d, C) of the honest devices after every round."""
    return (
        at_once(cell)
        if cell["budget"] == EVERYBODY and not cell["norm_factor"] and cell["attack"] != "tailored"
        else played(cell)
    )


def fleet_of(cell: Cell) -> engine.VirtualFleet:
    """The devices; those who lie come last."""
    options = {"honest": cell["honest"], "iid": cell["partition"] == "iid", "seed": cell["seed"]}
    return engine.VirtualFleet(f"{__name__}:make_task", options, cell["honest"] + cell["liars"])


def played(cell: Cell) -> Iterator[dict[str, FloatArray]]:
    """The rounds as the product plays them, bytes and all."""
    fleet, half, store = fleet_of(cell), registry.client_side("bristle"), engine.Store()
    names, honest = list(fleet), cell["honest"]
    adversaries, conspiracy = {}, None
    lie = cell["attack"]
    if lie == "tailored":
        # What colluders train themselves never leaves them; nor do they read.
        lie = "flip_all"
        aims = {name: (names[at], tuple(familiar(at, honest, False))) for at, name in enumerate(names[honest:])}
        conspiracy = Tailors(aims)
    if lie != "none":
        adversaries = dict.fromkeys(names[honest:], Named("edgehold.attacks.byzantine.heads:make", {"lie": lie}))
    found: list[dict[str, FloatArray]] = []

    def look(number: int, facts: Mapping[str, float]) -> None:
        found.append({name: half.load(store.local(name) or b"").kept for name in names[:honest]})

    engine.run(*_plan(cell), fleet, None, adversaries, look, conspiracy=conspiracy, store=store)
    yield from found


def at_once(cell: Cell) -> Iterator[dict[str, FloatArray]]:
    """The same heads, bit for bit, where everybody reads everybody: nothing is encoded, listed or drawn."""
    fleet, how = fleet_of(cell), Training(**{k: v for k, v in _method(cell).items() if k in Training.__struct_fields__})
    names, honest = list(fleet), cell["honest"]
    devices = [device_of(fleet[name]) for name in names]
    liar = make(cell["attack"])(BristleClient(), "") if cell["attack"] != "none" else None
    zeros = np.zeros((WIDTH, CLASSES), np.float32)
    locals_ = [Local(zeros, zeros, zeros, zeros)] * len(names)
    sent = np.zeros((0, WIDTH, CLASSES))
    for number in range(1, cell["rounds"] + 1):
        asked = Order(cell["seed"], number, {}, np.zeros((0, SKETCH), np.float32), bytes(32), how)
        given = []
        for at, name in enumerate(names):
            rng = client_stream(cell["seed"], "bristle", number, name)
            if liar is not None and at >= honest:
                locals_[at], lie, _ = liar.work(asked, locals_[at], fleet[name], rng)
                given.append(lie.head.whole().reshape(WIDTH, CLASSES))
                continue
            before = locals_[at]
            if len(sent) and how.integrator != "alone":
                before = replace(before, kept=merged(devices[at], before.kept, np.delete(sent, at, axis=0), how))
            locals_[at] = trained(before, devices[at].train, how, rng)
            given.append(locals_[at].kept)
        sent = np.array(given, dtype=np.float64)
        yield {name: local.kept for name, local in zip(names[:honest], locals_, strict=False)}


def _plan(cell: Cell) -> tuple[Any, Any]:
    size = cell["honest"] + cell["liars"]
    return parse_plan(whole_cohort("bristle", cell["rounds"], cell["seed"], size, 0, _method(cell)), registry.method)


def _method(cell: Cell) -> dict[str, Any]:
    how = {key: cell[key] for key in ("integrator", "keep", "budget", "norm_factor", "shared")}
    how |= {"centre": cell.get("centre", True), "liars": cell["liars"]}
    return {"name": "bristle", "learning_rate": 0.01, "batch_size": 5, **how}
