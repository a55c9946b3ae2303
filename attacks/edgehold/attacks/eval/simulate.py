"""`fl-eval simulate`: a plan over virtual clients, kept in a folder so that a killed simulation can go on."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.attacks.eval.named import Named
from edgehold.attacks.eval.screen import progress
from edgehold.core.contract import Facts
from edgehold.core.errors import ConfigError
from edgehold.core.plan import Plan, parse_plan
from edgehold.core.vectors import Schema, Vector
from edgehold.defenses import registry
from edgehold.server import engine
from edgehold.server.store import weights_file

FILE = "run.sqlite"
ONCE = {"edgehold.client.data.tasks:make_task": "edgehold.attacks.eval.data:make_task"}
"""Tasks that have a form which loads its data once per process; the same records go to the same clients."""


@dataclass(frozen=True)
class Wish:
    """What was asked for. liars: how many of the first clients lie, by `adversary`; workers: None for what pays.

    transcript: file for what the server is able to see in the rounds of `keep` (none: all); imprint: the server is malicious
    and starts from weights that sort records into bins, made with its own test records.
    """

    plan: Path
    clients: int
    task: str
    options: Mapping[str, Any] = field(default_factory=dict)
    adversary: str = ""
    adversary_options: Mapping[str, Any] = field(default_factory=dict)
    liars: int = 0
    workers: int | None = None
    batch: bool = False
    out: Path | None = None
    resume: bool = False
    transcript: Path | None = None
    keep: tuple[int, ...] = ()
    imprint: bool = False


def simulate(wish: Wish) -> dict[str, Any]:
    """Play it; the answer as JSON: digest, accuracy and the like of the last round, seconds, facts per round."""
    plan, settings = _plan(wish)
    fleet = engine.VirtualFleet(ONCE.get(wish.task, wish.task), wish.options, wish.clients)
    own = fleet.own_copy()
    store = _store(wish)
    began = time.monotonic()
    before = len(kept.rounds) if store and (kept := store.kept()) else 0
    with progress(plan.run.name, plan.run.rounds, "rounds", before) as tell:
        result = engine.run(
            plan, settings, fleet, own, _liars(wish, fleet), lambda number, facts: tell(number, said(facts)),
            workers=wish.workers, batch=wish.batch, store=store,
            transcript=(wish.transcript, wish.keep) if wish.transcript else None, initial=_initial(wish, own, plan.run.seed),
        )  # fmt: skip
    found = {
        "run": plan.run.name,
        "clients": wish.clients,
        "rounds": len(result.rounds),
        "rounds_played_now": len(result.rounds) - before,
        "digest": result.digest.hex(),
        "plan_digest": plan.digest.hex(),
        "seconds": round(time.monotonic() - began, 3),
        "rejected": dict(result.rejected),
        "last": result.rounds[-1],
        "facts": result.rounds,
    }
    if wish.out and store:
        store.close()
        (wish.out / "result.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        _save(wish.out / "model.safetensors", own.schema, result.model, plan)
    return found


def facts_of(folder: Path) -> list[dict[str, float]]:
    """Facts of every committed round of a kept simulation, `seconds` among them; also while it still runs."""
    path = folder / FILE
    if not path.exists():
        raise ConfigError(f"{path}: no simulation is kept here", field="folder")
    store = engine.Store(path)
    kept, seconds = store.kept(), store.seconds()
    store.close()
    rounds = kept.rounds if kept else []
    return [{"round": at + 1, **facts, "seconds": seconds[at]} for at, facts in enumerate(rounds)]


def said(facts: Facts) -> str:
    """What a line of progress tells of a round."""
    names = ("accuracy", "loss")
    scores = [f"{name} {facts[name]:.4f}" for name in names if name in facts]
    batched = [f"{facts['clients_batched']:.0f} batched"] if facts.get("clients_batched") else []
    return "  ".join([f"{facts['clients_admitted']:.0f} clients", *batched, *scores])


def _initial(wish: Wish, own: Any, seed: int) -> Vector | None:
    if not wish.imprint:
        return None
    from edgehold.attacks.inversion import bins

    if getattr(own, "test_data", None) is None:
        raise ConfigError("an imprint takes its bins from the server's own test records; this task has none", field="imprint")
    return Vector.of(bins.craft(own.initial(seed), own.schema, np.asarray(own.test_data[0])))


def _plan(wish: Wish) -> tuple[Plan, Any]:
    try:
        text = wish.plan.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{wish.plan}: cannot be read: {error}", field="plan") from None
    plan, settings = parse_plan(text, registry.method, str(wish.plan))
    if plan.model.file is not None:
        raise ConfigError("a simulation makes its own initial weights; leave out model.file", field="model.file")
    if wish.clients < plan.quorum:
        raise ConfigError(
            f"clients = {wish.clients}, but a round needs {plan.quorum} updates; use more clients", field="clients"
        )
    return plan, settings


def _store(wish: Wish) -> engine.Store | None:
    if wish.out is None:
        if wish.resume:
            raise ConfigError("a simulation goes on in the folder where it was kept; give --out too", field="out")
        return None
    wish.out.mkdir(parents=True, exist_ok=True)
    store = engine.Store(wish.out / FILE)
    if not store.empty and not wish.resume:
        store.close()
        raise ConfigError(f"{wish.out} holds a simulation already; --resume lets it go on, or use another folder", field="out")
    return store


def _liars(wish: Wish, fleet: engine.VirtualFleet) -> dict[str, Named]:
    if bool(wish.liars) != bool(wish.adversary):
        raise ConfigError("liars need an adversary and an adversary needs liars; give both or none", field="liars")
    if wish.liars > wish.clients:
        raise ConfigError(f"liars = {wish.liars} of {wish.clients} clients", field="liars")
    lie = Named(wish.adversary, dict(wish.adversary_options))
    return dict.fromkeys(list(fleet)[: wish.liars], lie)


def _save(path: Path, schema: Schema, model: Vector, plan: Plan) -> None:
    with path.open("wb") as file:
        file.write(weights_file.header(schema, {"run": plan.run.name, "plan_digest": plan.digest.hex()}))
        file.write(model.blob.read(0, model.blob.size))
