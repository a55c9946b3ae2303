"""Votes under masks: what FRL and HideNseek keep of their robustness when nobody sees a single vote, and where they lose it.

Digits over 50 clients at Dirichlet 1 that all take part, a perceptron without biases. Six groups of eight or nine are combined
by their median; three and one are added up. Liars vote lawfully (FRL upside down, HideNseek inverted), or keep the law of their
group's sum alone and swing all of it (`conspiracies.Swing`).
Bars: one group gives the model of single votes, to the bit; one liar who swings the only group wins, so that holding means
something; below the bound f < 1 - 0.5^(1/m) the median over groups holds. Everything else is told as measured, above the bound
too. Beside it FedAvg under masks with noise that devices bring along, and what it costs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgehold.attacks.eval.bars import Bar, Report, Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.conspiracies import Ranks, Signs, Swing
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.eval.reproductions import Options
from edgehold.attacks.testbed import toml
from edgehold.core.masks.combine import liars_withstood
from edgehold.core.masks.noise import SharedNoise, rounded_norm, sensitivities
from edgehold.core.masks.sizing import sized
from edgehold.core.plan import Plan, parse_plan
from edgehold.core.privacy.budget import Filter, Spent
from edgehold.core.vectors import Schema
from edgehold.defenses import registry
from edgehold.defenses.layers import layers_of
from edgehold.server import engine

NAME = "masked_votes"
SUMMARY = (
    "FRL and HideNseek under masks on the digits: the same model, liars in sums, groups and their median; FedAvg with noise"
)

CLIENTS, ROUNDS, SHORT = 50, 12, 3
HELD, FALLEN = 0.05, 0.50
DELTA = 1e-5
NORM = 1.0
MULTIPLIERS = (0.0, 1.0, 2.0, 4.0, 8.0)

METHODS: Mapping[str, Mapping[str, Any]] = {
    "frl": {"local_epochs": 2, "batch_size": 8},
    "hidenseek": {"local_epochs": 5, "batch_size": 8},
}
"""HideNseek's 28 records a client are few: with three epochs of batches of 16 no score crosses 0, and nothing is learnt."""
GROUPS: Mapping[str, Mapping[str, Any]] = {
    "six": {"group_least": 8, "group_most": 15},
    "three": {"group_least": 16, "group_most": 32},
    "one": {"group_least": 50, "group_most": 64},
}
CLEAR, CLEAN, VOTE, SWING, TURN, SAME = "none", "none", "vote", "swing", "turn", "same model"
MANY, FEW, SINGLE = 10, 2, 1
ROWS = (
    (CLEAR, CLEAN, 0), (CLEAR, VOTE, MANY), ("six", CLEAN, 0), ("six", VOTE, MANY), ("six", SWING, SINGLE), ("six", SWING, FEW),
    ("six", SWING, MANY), ("three", SWING, FEW), ("one", SWING, SINGLE),
)  # fmt: skip
"""(groups, lie, liars)"""
TURNED = (("six", TURN, MANY), ("one", TURN, SINGLE))
"""For FRL alone."""
QUICK = (("six", CLEAN, 0), ("six", SWING, FEW), ("one", SWING, SINGLE))


def cells(options: Options) -> list[Cell]:
    """Every row for both methods, the comparison to the bit, and FedAvg with noise."""
    found: list[Cell] = []
    for seed in range(options.seeds):
        for method in METHODS:
            for groups, lie, liars in _rows(method, options):
                found.append({"method": method, "groups": groups, "lie": lie, "liars": liars, "rounds": ROUNDS, "seed": seed})
            found.append({"method": method, "groups": "one", "lie": SAME, "liars": 0, "rounds": SHORT, "seed": seed})
        if not options.quick:
            found += [
                {"method": "fedavg", "groups": "one", "multiplier": multiplier, "rounds": ROUNDS, "seed": seed}
                for multiplier in MULTIPLIERS
            ]
    return found


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """Accuracy after the last round; for `SAME` whether the model differs from that of single votes; for noise its epsilon."""
    votes = cell["method"] != "fedavg"
    dealt = {
        "dataset": "digits", "model": "mlp", "net": {"hidden": [128, 128] if votes else [], "bias": not votes},
        "partition": "dirichlet", "alpha": 1.0, "min_records": 8, "seed": cell["seed"], "scale": "standard",
    }  # fmt: skip
    fleet = engine.VirtualFleet("edgehold.attacks.eval.data:make_task", dealt, CLIENTS)
    own = fleet.own_copy()
    plan, settings = parse_plan(_plan(cell, cell["groups"]), registry.method)
    if not votes:
        result = engine.run(plan, settings, fleet, own)
        found = {"accuracy": result.rounds[-1]["accuracy"]}
        return found | ({"epsilon": epsilon(plan, own.schema)} if cell["multiplier"] else {})
    if cell["lie"] == SAME:
        clear = engine.run(*parse_plan(_plan(cell, CLEAR), registry.method), fleet, own)
        return {"differs": float(engine.run(plan, settings, fleet, own).digest != clear.digest)}
    members = frozenset(list(fleet)[: cell["liars"]])
    conspiracy: Ranks | Signs | None = None
    swing: Swing | None = None
    if cell["lie"] == VOTE:
        conspiracy = Ranks(members, "reverse") if cell["method"] == "frl" else Signs(members, "invert_majority")
    elif cell["lie"] in (SWING, TURN):
        edges = tuple(layer.edges for layer in layers_of(own.schema, NAME)) if cell["method"] == "frl" else ()
        swing = Swing(members, edges, cell["lie"] == TURN)
    result = engine.run(plan, settings, fleet, own, conspiracy=conspiracy, sum_liars=swing)
    found = {"accuracy": result.rounds[-1]["accuracy"]}
    if cell["groups"] != CLEAR:
        found["void"] = sum(facts["mask_groups_void"] for facts in result.rounds)
    return found


def epsilon(plan: Plan, schema: Schema) -> float:
    """What all rounds cost a device of the run at `DELTA`: whole vectors, neighbours having zeros in their place."""
    sizes = sized(plan.masks, schema.size, 0)
    norm = rounded_norm(schema.size, NORM * (sizes.largest // 2) / sizes.clip)
    event = SharedNoise(sizes.variance, sizes.helpers).event(schema.size, CLIENTS, *sensitivities(schema.size, norm))
    costs = []
    for order in range(2, 257):
        filter_, spent = Filter(float(order)), Spent()
        for _ in range(plan.run.rounds):
            spent = spent.plus(event, filter_)
        costs.append(spent.epsilon(filter_, DELTA))
    return min(costs)


def judge(options: Options, played: Sequence[Played]) -> Report:
    """Bars on what theory promises; the table tells the rest."""

    def values(method: str, groups: str, lie: str, liars: int, name: str = "accuracy") -> list[float]:
        wanted = {"method": method, "groups": groups, "lie": lie, "liars": liars}
        return [one.value[name] for one in played if wanted.items() <= one.cell.items()]

    differs = [value for method in METHODS for value in values(method, "one", SAME, 0, "differs")]
    bars = [Bar("one group: share of models that differ from those of single votes", 0.0, *mean_spread(differs))]
    for method in METHODS:
        clean, few = values(method, "six", CLEAN, 0), values(method, "six", SWING, FEW)
        lost = [one - other for one, other in zip(clean, few, strict=True)]
        alone = values(method, "one", SWING, SINGLE)
        bars += [
            Bar(f"{method}, one group: accuracy when one liar of {CLIENTS} swings it", FALLEN, *mean_spread(alone)),
            Bar(f"{method}, six groups: lost when {_share(FEW)} swing theirs", HELD, *mean_spread(lost)),
        ]
    rows = [
        [method, "in the clear" if groups == CLEAR else groups, lie, _share(liars), told(values(method, groups, lie, liars))]
        for method in METHODS
        for groups, lie, liars in _rows(method, options)
    ]
    title = f"digits, 64-128-128-10, {ROUNDS} rounds of all {CLIENTS} clients, mean +- sd"
    tables = [Table(title, ("method", "groups", "lie", "liars", "accuracy"), rows)]
    if not options.quick:
        tables.append(_noise(played))
    void = sum(one.value.get("void", 0.0) for one in played)
    return Report(bars, tables, [*NOTES, f"Groups found void by the law of their sum, in all runs: {void:.0f}."])


def _noise(played: Sequence[Played]) -> Table:
    rows = []
    for multiplier in MULTIPLIERS:
        fitting = [one.value for one in played if one.cell.get("multiplier") == multiplier]
        cost = f"{fitting[0]['epsilon']:.1f}" if multiplier else "none promised"
        rows.append([f"{multiplier:g}", cost, told([one["accuracy"] for one in fitting])])
    title = f"FedAvg, digits, 64-10, {ROUNDS} rounds, one group of {CLIENTS}, norm {NORM:g}"
    return Table(title, ("noise multiplier", f"epsilon of a device at delta {DELTA:g}", "accuracy"), rows)


def _rows(method: str, options: Options) -> tuple[tuple[str, str, int], ...]:
    if options.quick:
        return QUICK
    return ROWS + TURNED if method == "frl" else ROWS


def _share(liars: int) -> str:
    return f"{100 * liars / CLIENTS:g} %"


NOTES = (
    f"Bound f < 1 - 0.5^(1/m) on the share of liars: {100 * liars_withstood(8):.1f} % for groups of eight, "
    f"{100 * liars_withstood(9):.1f} % of nine, {100 * liars_withstood(16):.1f} % of 16, {100 * liars_withstood(32):.1f} % of "
    "32. Two liars spoil two groups of six at most; ten spoil most of them, and nothing is promised.",
    "vote: every liar sends a lawful vote, the opposite of what the liars would vote together. "
    "swing: one liar in a group is enough to make its whole sum say what it wants, which stays lawful as a sum: FRL's edges "
    "stand in the order of their ids in every round, HideNseek's signs go against the honest majority of the group. turn: "
    "FRL's sum is the honest ranking upside down; two networks, each the other's complement, then learn in turns. To hit the "
    "law the liars must know the sum of the honest members, which nobody on a network does: the strongest case.",
    "Six groups: median per entry. Three groups, and one: all votes added up, so that one liar decides for its whole group.",
    "Noise: each device clips its change to the norm and brings a share of Skellam noise; the sum carries the multiplier times "
    "the norm as its deviation even if only t + 1 of the members survive. Nobody vanished here, and no helper was assumed. A "
    "device is one unit; the account is that of all rounds.",
)


def _plan(cell: Cell, groups: str) -> str:
    method = cell["method"]
    noise = cell.get("multiplier", 0.0)
    how: dict[str, Any] = {"name": method}
    how |= METHODS.get(method, {"local_epochs": 2, "batch_size": 8, "learning_rate": 0.1})
    text = whole_cohort(NAME, cell["rounds"], cell["seed"], CLIENTS, cell["rounds"], how)
    tables: dict[str, dict[str, Any]] = {"weights": {"by": "equal"}}
    if groups != CLEAR:
        tables["privacy"] = {"masked": True}
        tables["masks"] = {**GROUPS[groups]}
        if method == "fedavg":
            tables["masks"] = {"group_least": 32, "group_most": 64, "norm": NORM, "noise_multiplier": noise}
    return text + toml(tables)
