"""Liars with an aim: a wanted accuracy or a backdoor in the votes of FRL, and backdoors on averaging that are meant to last.

Ten devices hold digits, shares after Dirichlet 1.0; the liars are among them. Rankings: edge control with a minority and with a
majority of the votes (the control: there nothing stands in its way), and the targeted attack on rankings beside the boosted
backdoor on averaging that the catalogue compares it with. Neurotoxin: how often its trigger works when the liars stop, and
later, beside the same backdoor in all coordinates.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgehold.attacks.byzantine import backdoor, control, neurotoxin
from edgehold.attacks.byzantine.trigger import Trigger, success
from edgehold.attacks.eval.bars import Bar, Report, Table, mean_spread, told
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.eval.reproductions import Options
from edgehold.core.contract import Adversary
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

NAME = "aimed_liars"
SUMMARY = "Edge control and a backdoor in FRL's votes, Neurotoxin's durability, on digits, with controls"

CLIENTS, TARGET, LIES, TAIL = 10, 0, 10, 5
WANTED = 0.8
AFTER = (0, 5, 20)
"""Rounds after the liars stopped."""
LASTING = {"plain": 1.0, "neurotoxin": 0.3}
"""Share of the coordinates that may change."""


def cells(options: Options) -> list[Cell]:
    """Per seed: votes by 0, 3 and 6 liars of 10; backdoors in votes and in averages; how long two backdoors last, and none."""
    found: list[Cell] = []
    few = options.quick
    for seed in range(options.seeds):
        found += [_cell("control", liars, 15, seed) for liars in ((0, 6) if few else (0, 3, 6))]
        found += [_cell("votes", liars, 10, seed) for liars in ((0, 6) if few else (0, 3, 6))]
        found += [_cell("boosted", liars, 10, seed) for liars in (0, 1)]
        found += [
            _cell(kind, liars, LIES + later, seed)
            for later in (AFTER[:1] if few else AFTER)
            for kind, liars in (("plain", 0), *((name, 3) for name in LASTING))
        ]
    return found


def _cell(kind: str, liars: int, rounds: int, seed: int) -> Cell:
    return {"kind": kind, "liars": liars, "rounds": rounds, "seed": seed}


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """Accuracy (control: mean of the last rounds) and success of the trigger after the last round."""
    votes = cell["kind"] in ("control", "votes")
    dealt: dict[str, Any] = {
        "dataset": "digits", "seed": cell["seed"], "limit": 100, "model": "mlp",
        "partition": "dirichlet", "alpha": 1.0,
        "net": {"hidden": [64], "bias": False} if votes else {"hidden": [32]},
    }  # fmt: skip
    if cell["kind"] == "control":  # A trigger keeps the pixels as they are: standardised, one of a dark corner drowns the rest.
        dealt["scale"] = "standard"
    fleet = engine.VirtualFleet("edgehold.attacks.eval.data:make_task", dealt, CLIENTS)
    method: dict[str, Any] = {"name": "frl", "batch_size": 16}
    if not votes:
        method = {"name": "fedavg", "local_epochs": 2, "learning_rate": 0.1}
    every = 1 if cell["kind"] == "control" else cell["rounds"]
    plan, settings = parse_plan(whole_cohort(NAME, cell["rounds"], cell["seed"], CLIENTS, every, method), registry.method)
    own: Any = fleet.own_copy()
    with tempfile.TemporaryDirectory() as folder:
        lie = _lie(cell, folder)
        result = engine.run(plan, settings, fleet, own, dict.fromkeys(list(fleet)[: cell["liars"]], lie), workers=1)
    late = [facts["accuracy"] for facts in result.rounds[-TAIL if every == 1 else -1 :]]
    accuracy = sum(late) / len(late)
    return {
        "accuracy": accuracy, "missed": abs(accuracy - WANTED), "success": success(own, result.model.whole(), Trigger(), TARGET)
    }  # fmt: skip


def _lie(cell: Cell, folder: str) -> Adversary:
    liars = cell["liars"]
    if cell["kind"] == "control":
        return control.make(WANTED, folder=folder, colluders=max(1, liars), wait_s=0.0)
    if cell["kind"] == "votes":
        return backdoor.make(TARGET, share=0.5)
    if cell["kind"] == "boosted":
        return backdoor.make(TARGET, boost=float(CLIENTS))
    return neurotoxin.make(TARGET, ratio=LASTING[cell["kind"]], norm=0.0, lies=LIES)


def judge(options: Options, played: Sequence[Played]) -> Report:
    """Each attack against its own clean run."""

    def values(kind: str, liars: int, name: str, rounds: int = 0) -> list[float]:
        return [
            p.value[name]
            for p in played
            if (p.cell["kind"], p.cell["liars"]) == (kind, liars) and (not rounds or p.cell["rounds"] == rounds)
        ]

    def gained(kind: str, liars: int, rounds: int = 0, clean: str = "") -> tuple[float, float]:
        calm = values(clean or kind, 0, "success", rounds)
        return mean_spread([b - a for a, b in zip(calm, values(kind, liars, "success", rounds), strict=True)])

    lost = [a - b for a, b in zip(values("control", 0, "accuracy"), values("control", 6, "accuracy"), strict=True)]
    bars = [
        Bar("ranks_control, 6 of 10: accuracy lost (control)", 0.05, *mean_spread(lost), ">="),
        Bar(f"ranks_control, 6 of 10: distance from {WANTED} (control)", 0.1, *mean_spread(values("control", 6, "missed"))),
        Bar("ranks_targeted, 6 of 10: success gained (control)", 0.5, *gained("votes", 6), ">="),
        Bar("model_replacement on averaging, 1 of 10: success gained", 0.5, *gained("boosted", 1), ">="),
        Bar("neurotoxin, 3 of 10, when they stop: success gained", 0.3, *gained("neurotoxin", 3, LIES, "plain"), ">="),
    ]
    rows = [
        [f"{liars} of {CLIENTS}", told(values("control", liars, "accuracy")), told(values("control", liars, "missed"))]
        for liars in (0, 3, 6)
        if values("control", liars, "missed")
    ]
    tables = [Table(f"edge control, wanted {WANTED}, mean of the last {TAIL} rounds", ("liars", "accuracy", "distance"), rows)]
    rows = [
        [how, f"{liars} of {CLIENTS}", told(values(kind, liars, "success")), told(values(kind, liars, "accuracy"))]
        for kind, how in (("votes", "frl, ranks_targeted"), ("boosted", "fedavg, model_replacement"))
        for liars in (0, 1, 3, 6)
        if values(kind, liars, "success")
    ]
    tables.append(Table("a backdoor in votes and in averages", ("method, attack", "liars", "success", "accuracy"), rows))
    later = [one for one in AFTER if values("plain", 0, "success", LIES + one)]
    rows = [
        [name, *(told(values(kind, liars, "success", LIES + one)) for one in later)]
        for name, kind, liars in (
            ("nobody lies", "plain", 0), ("all coordinates", "plain", 3),
            (f"neurotoxin, {LASTING['neurotoxin']:g} of them", "neurotoxin", 3),
        )
    ]  # fmt: skip
    heads = ("backdoor, 3 of 10", *(f"{one} rounds after" for one in later))
    tables.append(Table(f"success of a trigger after {LIES} rounds of lies", heads, rows))
    return Report(bars, tables, NOTES)


NOTES = (
    "Success: share of test records of other classes that the trigger turns into the target.",
    "Edge control measures the model on the liars' own records, of which it has no more than their share of the data.",
    "A majority of the votes is the control of attacks on rankings: it decides alone.",
)
