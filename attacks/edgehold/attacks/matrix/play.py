"""One cell, played through the engine: the methods' own halves, and liars as conspirators or as adversaries of their own."""

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from edgehold.attacks.byzantine import registry
from edgehold.attacks.byzantine.bent import array_of
from edgehold.attacks.byzantine.plot import Plot
from edgehold.attacks.byzantine.registry import RANKS, SIGNS
from edgehold.attacks.byzantine.trigger import Trigger, success
from edgehold.attacks.eval.cells import Cell, code
from edgehold.attacks.eval.conspiracies import Ranks, Signs
from edgehold.attacks.eval.named import Named
from edgehold.attacks.matrix import audits
from edgehold.attacks.matrix.grid import known_rule, plan_of
from edgehold.attacks.matrix.plan import granted
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry as methods
from edgehold.server import engine


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a cell. facts: numbers by name; error: the traceback where it crashed, facts are empty then.

    seconds: of the processor. commit: of the code that played it.
    """

    facts: Mapping[str, float]
    seconds: float
    commit: str
    error: str = ""


def attempt(cell: Cell, data: Path | None) -> Outcome:
    """The cell's outcome, whatever happens in it but Ctrl-C."""
    began = time.process_time()
    try:
        facts, error = (audits.play(cell, data) if "audit" in cell else play(cell, data)), ""
    except Exception:
        facts, error = {}, traceback.format_exc()
    return Outcome(facts, time.process_time() - began, _commit(), error)


@cache
def _commit() -> str:
    return code()


def play(cell: Cell, data: Path | None) -> dict[str, float]:
    """Facts after the last round.

    accuracy, recall (of the source class), resisted and resisted_bars (1 - success of a trigger); bytes_up, bytes_down of a
    client in the last round; refused: updates in all; epsilon where the method is private; broken: the model blew up, which
    counts as guessing.
    """
    dealt = dict(cell["dealt"])
    if dealt["dataset"] != "digits" and data is not None:
        dealt["path"] = str(data / dealt["dataset"])
    fleet = engine.VirtualFleet("edgehold.attacks.eval.data:make_task", dealt, cell["honest"] + cell["liars"])
    own: Any = fleet.own_copy()
    plan, settings = parse_plan(plan_of(cell), methods.method)
    classes, source, target = cell["aim"]
    members = list(fleet)
    honest, liars = frozenset(members[: cell["honest"]]), members[cell["honest"] :]
    how = _liars(cell, liars)
    try:
        result = engine.run(plan, settings, fleet, own, **how)
    except engine.TooFewAdmitted as error:
        # Honest updates are refused once they are infinite or longer than any law allows: liars have blown up the model.
        if not how or not error.refused & honest:
            raise
        return {"accuracy": 1.0 / classes, "recall": 0.0, "resisted": 0.0, "resisted_bars": 0.0, "broken": 1.0}
    weights, last = result.model.whole(), result.rounds[-1]
    x, y = (array_of(part) for part in own.test_data)
    some = y == source
    recall = replace(own, train_data=None, test_data=(x[some], y[some])).evaluate(weights)["accuracy"]
    facts = {
        "accuracy": last["accuracy"], "recall": recall,
        "resisted": 1.0 - success(own, weights, Trigger(), target),
        "resisted_bars": 1.0 - success(own, weights, Trigger(bars=True), target),
        "bytes_up": last["bytes_up"] / last["clients_admitted"], "bytes_down": last["bytes_down"] / last["clients_admitted"],
        "refused": float(sum(result.rejected.values())),
    }  # fmt: skip
    epsilon = [last[name] for name in ("epsilon_worst", "epsilon") if name in last]
    return {name: float(value) for name, value in facts.items()} | ({"epsilon": float(epsilon[0])} if epsilon else {})


def _liars(cell: Cell, members: Sequence[str]) -> dict[str, Any]:
    """Arguments of the engine."""
    lie = cell["lie"]
    if not lie:
        return {}
    card, options, together = registry.find(lie["name"]), lie["options"], frozenset(members)
    if card.on_updates:
        knowledge = granted(cell["knowledge"])
        rule = known_rule(cell) if card.needs.rule else None
        return {"conspiracy": Plot(together, registry.attack_of(card.name, options), knowledge, rule)}
    if card.applies == RANKS:
        return {"conspiracy": Ranks(together, card.options["lie"], **options)}
    if card.applies == SIGNS:
        return {"conspiracy": Signs(together, card.options["lie"])}
    classes, source, target = cell["aim"]
    aim: dict[str, Any] = {"target": target}
    if card.entry.endswith("label_flip:make"):
        aim |= {"source": source, "classes": classes}
    if card.entry.endswith("label_search:make"):
        aim |= {"source": source}
    bars = [{"part": index} if card.options.get("bars") else {} for index in range(len(members))]
    return {
        "adversaries": {
            member: Named(card.entry, {**card.options, **options, **aim, **part})
            for member, part in zip(members, bars, strict=True)
        }
    }
