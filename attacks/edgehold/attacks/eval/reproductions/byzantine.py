"""Byzantine attacks: each one must clearly win where nobody defends, before any rule is credited with its defeat.

Ten honest clients with two shards of sorted digits each; six liars join them, who hold copies of some of those records and know
every honest update and the server's rule where their attack asks for it. Every attack of the registry that acts through updates
or training records is played against the average, whose fall is its control, and against rules that are told how many lie.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgehold.attacks.byzantine import registry
from edgehold.attacks.byzantine.bent import array_of
from edgehold.attacks.byzantine.knowledge import K2_RULE
from edgehold.attacks.byzantine.plot import Plot
from edgehold.attacks.byzantine.rule import ServerRule
from edgehold.attacks.byzantine.trigger import Trigger, success
from edgehold.attacks.eval.bars import Bar, Report, Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.named import Named
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.eval.reproductions import Options
from edgehold.core.errors import FlError
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry as methods
from edgehold.server import engine

NAME = "byzantine"
SUMMARY = "Every Byzantine attack against the average (its control) and four rules, 6 liars of 16, digits in shards"

HONEST, LIARS, ROUNDS, CHANCE = 10, 6, 12, 0.1
CLEAN, AVERAGE = "none", "average"
RULES: Mapping[str, Mapping[str, Any]] = {
    AVERAGE: {}, "trimmed_mean": {}, "krum": {}, "nnm+trimmed_mean": {}, "centred_clipping": {"radius": 0.5},
}  # fmt: skip
TABLED = 3
"""Seeds behind a row of a rule, where no bar stands."""
SOURCE, TARGET = 7, 0


@dataclass(frozen=True, slots=True)
class Control:
    """How an attack is played. bar: what it must cost the average, in its own measure: "accuracy" lost, "recall" of one class
    lost, or "success" gained by a trigger. rule: what the liars take the server's rule for; empty: what it is.
    """

    bar: float
    options: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = ROUNDS
    measure: str = "accuracy"
    liars: int = LIARS
    rule: str = ""
    partition: str = "shards"


CONTROLS: Mapping[str, Control] = {
    "gaussian": Control(0.3),
    "zero": Control(0.05, rounds=3, partition="iid"),
    "sign_flip": Control(0.3, {"scale": 3.0}),
    "sign_flip_mean": Control(0.3, {"scale": 3.0}),
    "ipm": Control(0.3, {"tau": 3.0}),
    "alie": Control(0.1, {"z": 1.5}),
    "alie_both": Control(0.1, {"z": 3.0}),
    "ipm_optimised": Control(0.3),
    "alie_optimised": Control(0.3),
    "min_max": Control(0.1, {"direction": "sign"}),
    "min_sum": Control(0.1),
    "rule_aware": Control(0.3),
    "fang_trimmed": Control(0.3),
    "fang_krum": Control(0.1, rule="krum"),
    "mimic": Control(0.1, {"warm_up": 3}),
    "poisoned_fl": Control(0.3),
    "relocated": Control(0.3, {"tau": 5.0}, rule="centred_clipping"),
    "replay": Control(0.05, {"scale": 5.0}),
    "label_flip": Control(0.1),
    "label_flip_pair": Control(0.3, {"source": SOURCE, "target": 1}, measure="recall"),
    "backdoor": Control(0.5, {"target": TARGET}, measure="success"),
    "backdoor_bars": Control(0.5, {"target": TARGET}, measure="success"),
    "neurotoxin": Control(0.5, {"target": TARGET, "ratio": 0.3, "norm": 0.0}, measure="success"),
    "model_replacement": Control(0.5, {"target": TARGET, "boost": HONEST + 1.0}, measure="success", liars=1),
}
"""Bars are half or less of what a first try with other seeds and four or eight liars showed; they are there to catch an attack
that stopped working, not to rank them.
"""


def cells(options: Options) -> list[Cell]:
    """Every attack and its clean runs, against the average with all seeds; unless quick, against rules with a few."""
    found: list[Cell] = []
    for rule in (AVERAGE,) if options.quick else RULES:
        for seed in range(options.seeds if rule == AVERAGE else min(options.seeds, TABLED)):
            kinds = sorted({(how.liars, how.rounds, how.partition) for how in CONTROLS.values()})
            found += [_cell(rule, CLEAN, seed, Control(0.0, {}, rounds, liars=n, partition=deal)) for n, rounds, deal in kinds]
            found += [_cell(rule, attack, seed, how) for attack, how in CONTROLS.items()]
    return found


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """Accuracy, recall of one class and success of a trigger after the last round; `broken` when the model blew up."""
    clients, attack = HONEST + cell["liars"], cell["attack"]
    dealt = {
        "dataset": "digits", "holders": HONEST, "limit": 144, "seed": cell["seed"], "model": "mlp", "net": {"hidden": [32]},
        "partition": cell["partition"],
    }  # fmt: skip
    fleet = engine.VirtualFleet("edgehold.attacks.eval.data:make_task", dealt, clients)
    members = list(fleet)[HONEST:]
    how = {} if attack == CLEAN else _liars(cell, members)
    own: Any = fleet.own_copy()
    plan, settings = parse_plan(_plan(cell, clients), methods.method)
    try:
        result = engine.run(plan, settings, fleet, own, **how)
    except FlError as error:
        if attack == CLEAN or "updates admitted" not in error.message:
            raise
        return {"accuracy": CHANCE, "recall": 0.0, "success": 0.0, "broken": 1.0}
    weights = result.model.whole()
    x, y = (array_of(part) for part in own.test_data)
    some = y == SOURCE
    recall = replace(own, train_data=None, test_data=(x[some], y[some])).evaluate(weights)["accuracy"]
    trigger = Trigger(bars=attack == "backdoor_bars")
    return {
        "accuracy": result.rounds[-1]["accuracy"], "recall": recall, "success": success(own, weights, trigger, TARGET),
        "success_bars": success(own, weights, Trigger(bars=True), TARGET),
    }  # fmt: skip


def judge(options: Options, played: Sequence[Played]) -> Report:
    """A bar per attack on the average; a table of accuracies, and one of what targeted attacks are after."""
    bars = []
    for attack, control in CONTROLS.items():
        lost = _cost(played, attack, control, AVERAGE)
        bars.append(Bar(f"{attack} ({control.measure}) against the average", control.bar, *mean_spread(lost), sense=">="))
    rules = [rule for rule in RULES if any(one.cell["rule"] == rule for one in played)]
    rows = [["nobody lies", "", *(told(_values(played, CLEAN, rule, Control(0.0), "accuracy")) for rule in rules)]]
    for attack, control in CONTROLS.items():
        scores = [_values(played, attack, rule, control, "accuracy") for rule in rules]
        rows.append([attack, _how(control), *(told(found) for found in scores)])
    collapse = {name: how for name, how in CONTROLS.items() if how.measure == "accuracy" and how.rounds == ROUNDS}
    worst = []
    for rule in rules:
        means = [statistics.fmean(_values(played, name, rule, how, "accuracy")) for name, how in collapse.items()]
        worst.append(f"{min(means):.3f}")
    rows.append(["worst of them", "", *worst])
    aimed = [
        [attack, control.measure, *(told(_cost(played, attack, control, rule)) for rule in rules)]
        for attack, control in CONTROLS.items()
        if control.measure != "accuracy"
    ]
    tables = [
        Table(
            f"accuracy, {LIARS} liars of {HONEST + LIARS}, {ROUNDS} rounds, digits in shards", ("attack", "how", *rules), rows
        ),
        Table("what targeted attacks reach beyond the clean run", ("attack", "measure", *rules), aimed),
    ]
    notes = [
        "Success: share of test records of other classes that the trigger turns into the target. Recall: of one class, lost.",
        "zero is played for 3 rounds on even data, where a standstill shows; so is its clean run. It is not among the worst.",
        "model_replacement has one liar. Targeted attacks mean to keep accuracy and are not among the worst either.",
        f"Rules are told how many lie and have {TABLED} seeds.",
        "relocated is told centred clipping and fang_krum krum, whatever the server does.",
    ]
    if broken := sum("broken" in one.value for one in played):
        notes.append(f"{broken} run(s) ended because the attack blew up the model: they count as {CHANCE}.")
    return Report(bars, tables, notes)


def _cost(played: Sequence[Played], attack: str, control: Control, rule: str) -> list[float]:
    name = "success_bars" if attack == "backdoor_bars" else control.measure
    clean = _values(played, CLEAN, rule, control, name)
    found = _values(played, attack, rule, control, control.measure)
    sign = -1.0 if control.measure == "success" else 1.0
    return [sign * (before - after) for before, after in zip(clean, found, strict=True)]


def _values(played: Sequence[Played], attack: str, rule: str, how: Control, name: str) -> list[float]:
    wanted = {"attack": attack, "rule": rule, "liars": how.liars, "rounds": how.rounds, "partition": how.partition}
    return [one.value[name] for one in played if wanted.items() <= one.cell.items()]


def _how(control: Control) -> str:
    words = [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in control.options.items()]
    return ", ".join(words)


def _liars(cell: Cell, members: Sequence[str]) -> dict[str, Any]:
    attack, options = cell["attack"], cell["options"]
    card = registry.find(attack)
    if not card.on_updates:
        parts = [{"part": index} if attack == "backdoor_bars" else {} for index in range(len(members))]
        made = [Named(card.entry, {**card.options, **options, **part}) for part in parts]
        return {"adversaries": dict(zip(members, made, strict=True))}
    name = CONTROLS[attack].rule or cell["rule"]
    known = ServerRule(name, 0 if name == AVERAGE else cell["liars"], RULES[name]) if card.needs.rule else None
    return {"conspiracy": Plot(frozenset(members), registry.attack_of(attack, options), K2_RULE, known)}


def _cell(rule: str, attack: str, seed: int, how: Control) -> Cell:
    return {
        "rule": rule, "attack": attack, "options": dict(how.options), "liars": how.liars, "rounds": how.rounds,
        "partition": how.partition, "seed": seed,
    }  # fmt: skip


def _plan(cell: Cell, clients: int) -> str:
    rule, rounds = cell["rule"], cell["rounds"]
    how = {"name": "fedavg", "rule": rule, "liars": 0 if rule == AVERAGE else cell["liars"]}
    how |= {"local_epochs": 2, "learning_rate": 0.2}
    if RULES[rule]:
        how["rule_options"] = dict(RULES[rule])
    return whole_cohort("byzantine", rounds, cell["seed"], clients, rounds, how, max_attempts=1)
