"""HideNseek: a network pruned without data, of which devices learn only the signs, reaches what its size allows.

Source: Vallapuram et al. 2022, arXiv:2206.04385, of which only abstract and introduction could be read: the bars are those of
our own design. Scaled: digits over 10 clients at Dirichlet 1 that all take part, a perceptron without biases.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgehold.attacks.byzantine.signs import bits_of
from edgehold.attacks.eval.bars import Bar, Report, Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.conspiracies import Signs
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.eval.reproductions import Options
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.core.torch_task import TorchTask
from edgehold.defenses import registry
from edgehold.defenses.hidenseek.server import voted
from edgehold.defenses.hidenseek.state import weights_of
from edgehold.defenses.layers import layers_of
from edgehold.server import engine

NAME = "hidenseek"
SUMMARY = "Sign votes on a pruned network on the digits: accuracy by share kept, mean against majority, bytes, broken nets"

CLIENTS, ROUNDS, CLASSES = 10, 20, 10
LIARS = 2
HALF, FIFTH = 0.95, 0.90
AHEAD, SMALLER = 0.10, 60.0
RATE = 0.4
"""FedAvg's: the best of 0.05, 0.1, 0.2 and 0.4 with nobody lying."""
FLOAT_BYTES = 4 * (64 * 128 + 128 * 128 + 128 * 10)

Way = Mapping[str, Any]
BASE: Way = {
    "keep": 0.5,
    "prune_steps": 1,
    "prune": "synflow",
    "values": "signs",
    "between": "mean",
    "lie": "",
    "scale": "none",
}
BARS: tuple[Way, ...] = ({}, {"keep": 0.2}, {"keep": 0.2, "between": "majority"}, {"keep": 0.05})
BESIDE: tuple[Way, ...] = (
    {"keep": 0.1},
    {"keep": 0.1, "prune_steps": 100},
    {"keep": 0.05, "prune_steps": 100},
    {"keep": 0.05, "allow_broken": True},
    *({"keep": keep, **way} for keep in (0.5, 0.2) for way in ({"values": "mask"}, {"prune": "random"}, {"prune_steps": 100})),
    *({"scale": "standard", **way} for way in ({}, {"keep": 0.2}, {"keep": 0.2, "between": "majority"}, {"keep": 0.1})),
    *({"keep": keep, "lie": lie} for keep in (0.5, 0.2) for lie in ("invert", "invert_majority")),
)


def cells(options: Options) -> list[Cell]:
    """What the bars are about, then the controls beside it, and FedAvg on the same network."""
    ways = BARS if options.quick else (*BARS, *BESIDE)
    found: list[Cell] = []
    for seed in range(options.seeds):
        found += [{"method": "hidenseek", **BASE, **way, "rounds": ROUNDS, "seed": seed} for way in ways]
        found += [{"method": "fedavg", "rounds": ROUNDS, "learning_rate": RATE, "seed": seed}]
    return found


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """Accuracy of the global model, of everybody's own one on its own kind of data, and bytes; or that it was refused."""
    dealt = {
        "dataset": "digits", "model": "mlp", "net": {"hidden": [128, 128], "bias": False},
        "partition": "dirichlet", "alpha": 1.0, "min_records": 8, "seed": cell["seed"],
        "scale": cell.get("scale", "none"),
    }  # fmt: skip
    fleet = engine.VirtualFleet("edgehold.attacks.eval.data:make_task", dealt, CLIENTS)
    plan, settings = parse_plan(_plan(cell), registry.method)
    if cell["method"] == "fedavg":
        result = engine.run(plan, settings, fleet, fleet.own_copy())
        return {"accuracy": result.rounds[-1]["accuracy"], "bytes_up": result.rounds[-1]["bytes_up"] / CLIENTS}
    watch = Watch(frozenset(fleet), Signs(frozenset(list(fleet)[:LIARS]), cell["lie"]) if cell["lie"] else None)
    try:
        result = engine.run(plan, settings, fleet, fleet.own_copy(), conspiracy=watch)
    except ConfigError as error:
        if error.field != "method.keep":
            raise
        return {"refused": 1.0}
    last = result.rounds[-1]
    found = {"accuracy": last["accuracy"], "bytes_up": last["bytes_up"] / CLIENTS, "bytes_down": last["bytes_down"] / CLIENTS}
    if not cell["lie"]:
        found.update(personal(fleet, watch, result.model.whole(), settings.values == "mask"))
    return found


@dataclass
class Watch:
    """Sees every round as conspirators would; `lies` decides what is sent, None: everybody is honest."""

    members: frozenset[str]
    lies: Signs | None
    order: Any = None
    updates: Mapping[str, Any] = field(default_factory=dict)

    def lie(self, view: engine.View) -> Mapping[str, Any]:
        """See the class."""
        self.order, self.updates = view.order, dict(view.own)
        if self.lies is None:
            return {}
        liars = {client: update for client, update in view.own.items() if client in self.lies.members}
        return self.lies.lie(replace(view, own=liars))


def personal(fleet: engine.VirtualFleet, watch: Watch, model: Any, switched: bool) -> dict[str, float]:
    """Mean over clients of the accuracy on a client's own kind of data: of its own signs after the last round's training, and
    of the global model. Its own kind: the test records of every class, weighed by the classes of its training records.
    """
    own = fleet.own_copy()
    assert isinstance(own, TorchTask)
    judge = replace(own, metrics={str(c): _of_class(c) for c in range(CLASSES)})
    order = watch.order
    base = weights_of(order.seed, layers_of(own.schema, "HideNseek"), order.mask)
    scores: dict[str, list[float]] = {"own": [], "shared": []}
    for client, update in watch.updates.items():
        _, labels = cast(Any, fleet[client]).train_data
        held = np.bincount(np.asarray(labels), minlength=CLASSES)
        signs = bits_of(update, int(order.mask.sum()))
        for name, weights in (("own", voted(base, order.mask, signs, switched)), ("shared", model)):
            found = judge.evaluate(weights)
            scores[name].append(float(sum(share * found[str(c)] for c, share in enumerate(held / held.sum()))))
    return {name: statistics.fmean(values) for name, values in scores.items()}


def _of_class(number: int) -> Any:
    def share(outputs: Any, targets: Any) -> float:
        mine = targets == number
        return float((outputs.argmax(1)[mine] == number).double().mean())

    return share


def judge(options: Options, played: Sequence[Played]) -> Report:
    """Bars on the network at a half, a fifth and a twentieth; everything else is told."""

    def values(way: Way, name: str = "accuracy", method: str = "hidenseek") -> list[float]:
        wanted = {"method": method} | ({**BASE, **way} if method == "hidenseek" else {})
        fitting = [
            p for p in played if wanted.items() <= p.cell.items() and ("allow_broken" in way) == ("allow_broken" in p.cell)
        ]
        return [p.value[name] for p in fitting if name in p.value]

    fifth, hard = values({"keep": 0.2}), values({"keep": 0.2, "between": "majority"})
    refused = values({"keep": 0.05}, "refused")
    upload = max(values({}, "bytes_up"))
    bars = [
        Bar("half of the weights left: accuracy", HALF, *mean_spread(values({})), sense=">="),
        Bar("a fifth left: accuracy", FIFTH, *mean_spread(fifth), sense=">="),
        Bar(
            "a fifth left: mean of signs minus hard majority",
            AHEAD, *mean_spread([one - other for one, other in zip(fifth, hard, strict=True)]), sense=">=",
        ),
        Bar("half left: float32 weights over an upload, bytes", SMALLER, FLOAT_BYTES / upload, 0.0, sense=">="),
        Bar("a twentieth left in one shot: share of seeds refused", 1.0, len(refused) / options.seeds, 0.0, sense=">="),
    ]  # fmt: skip
    heads = ("way", "accuracy", "own kind of data: own signs", "own kind: global model", "bytes up", "bytes down")
    rows = []
    for way in BARS if options.quick else (*BARS, *BESIDE):
        label = ", ".join(f"{key} {value}" for key, value in {"keep": BASE["keep"], **way}.items())
        if not values(way):
            rows.append([label, "refused", "", "", "", ""])
            continue
        sizes = [f"{max(values(way, name)):.0f}" for name in ("bytes_up", "bytes_down")]
        ours, shared = (told(found) if (found := values(way, name)) else "" for name in ("own", "shared"))
        rows.append([label, told(values(way)), ours, shared, *sizes])
    dense = values({}, method="fedavg")
    size = f"{max(values({}, 'bytes_up', 'fedavg')):.0f}"
    rows.append([f"fedavg, dense, rate {RATE}", told(dense), "", "", size, size])
    title = f"digits, 64-128-128-10, {ROUNDS} rounds of all {CLIENTS} clients, mean +- sd"
    return Report(bars, [Table(title, heads, rows)], NOTES)


NOTES = (
    "Own kind of data: the 360 test records weighed by the classes of a client's training records; mean over the clients.",
    f"invert, invert_majority: {LIARS} of {CLIENTS} clients turn their own bits, or all send the opposite of what they "
    "would vote together. No bar: nobody has claimed that HideNseek withstands liars.",
    "scale standard: every pixel with mean 0 and deviation 1 over the training records, instead of grey values in 0..1.",
    "values mask: a vote against a weight switches it off instead of turning it, trained in the same way.",
    "Bytes with headers, in the last round; down: mask and counts, sent in each round.",
)


def _plan(cell: Cell) -> str:
    how = {"name": cell["method"], "local_epochs": 3, "batch_size": 16}
    if cell["method"] == "fedavg":
        how["learning_rate"] = cell["learning_rate"]
    else:
        how |= {key: cell[key] for key in ("keep", "prune_steps", "prune", "values", "between")}
        how["allow_broken"] = cell.get("allow_broken", False)
    return whole_cohort("hidenseek", cell["rounds"], cell["seed"], CLIENTS, cell["rounds"], how)
