"""One model of a study, trained through the engine: the method's own halves, codec and aggregation over virtual devices."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgehold.attacks.eval.cells import Cell
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.privacy.membership.population import Role, members, records
from edgehold.attacks.privacy.membership.scores import confidence
from edgehold.attacks.privacy.membership.study import Study
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining
from edgehold.core.vectors import Array, FloatArray, Schema
from edgehold.defenses import registry
from edgehold.defenses.dp_ef_sgd.accounts import noise_for
from edgehold.defenses.dp_ef_sgd.state import Training
from edgehold.server import engine

ENTRY = "edgehold.attacks.privacy.membership.population:make_task"
BATCH = 4096


@dataclass(frozen=True, slots=True)
class Trained:
    """phi: (pool,), what the server sees of every record; public: (tests,), of the server's own records.

    facts: accuracy on the server's records, accuracy_members on what was learnt (0 for a stranger), epsilon where private.
    """

    phi: Array
    public: Array
    facts: Mapping[str, float]


def model_cell(study: Study, subject: str, role: Role, index: int, seed: int, epsilon: float | None = None) -> Cell:
    """Everything that determines a model. epsilon: instead of the subject's."""
    one = study.subject[subject]
    return {
        "dataset": study.dataset, "pool": study.pool, "devices": study.devices, "rounds": one.rounds or study.rounds,
        "model": study.model, "net": dict(study.net), "scale": study.scale, "test_limit": study.test_limit, "view": study.view,
        "subject": subject, "method": {"name": one.method, **one.settings}, "epsilon": epsilon or one.epsilon,
        "delta": one.delta, "role": role, "index": index, "seed": seed,
    }  # fmt: skip


def train(cell: Cell, data: Path | None) -> Trained:
    """The model, and what it says of every record of the pool."""
    names = ("dataset", "pool", "seed", "role", "index", "scale", "test_limit", "model", "net")
    path = str(data / cell["dataset"]) if data is not None and cell["dataset"] != "digits" else ""
    fleet = engine.VirtualFleet(ENTRY, {name: cell[name] for name in names} | {"path": path}, cell["devices"])
    server = _Witness(fleet.own_copy())
    # First weights and batches of its own for every model: whoever trains shadow models does not know the target's.
    seed = int(stream(cell["seed"], "membership", "run", cell["role"], cell["index"]).integers(1 << 31))
    plan, settings = parse_plan(_plan(cell, seed, _table(cell, server.schema.size)), registry.method)
    last = engine.run(plan, settings, fleet, server, workers=1).rounds[-1]
    pool = records(cell["dataset"], path, cell["pool"], cell["seed"], cell["scale"])
    learnt = members(cell["pool"], cell["seed"], cell["role"], cell["index"])
    seen = [_look(server.own, weights, pool.x, pool.y) for weights in server.seen]
    x, y = server.own.test_data
    public = [_look(server.own, weights, np.asarray(x), np.asarray(y))[0] for weights in server.seen]
    right = seen[-1][1][learnt]
    facts = {"accuracy": float(last["accuracy"]), "accuracy_members": float(right.mean()) if len(right) else 0.0}
    spent = [float(last[name]) for name in ("epsilon_worst", "epsilon") if name in last]
    phi: Array = np.mean([phi for phi, _ in seen], axis=0)
    return Trained(phi, np.mean(public, axis=0), facts | ({"epsilon": spent[0]} if spent else {}))


def checked(study: Study) -> None:
    """`ConfigError` for a subject whose plan cannot be, before anything is trained."""
    for name in study.subject:
        cell = model_cell(study, name, "target", 0, 0)
        noise = {} if cell["epsilon"] is None else {"noise_multiplier": 1.0, "delta": cell["delta"]}
        try:
            parse_plan(_plan(cell, 0, {**cell["method"], **noise}), registry.method)
        except ConfigError as error:
            raise ConfigError(f"subject.{name}: {error.message}", field=f"subject.{name}") from None


def _plan(cell: Cell, seed: int, table: Mapping[str, Any]) -> str:
    every = 1 if cell["view"] == "trajectory" else cell["rounds"]
    return whole_cohort("membership", cell["rounds"], seed, cell["devices"], every, table)


def _table(cell: Cell, size: int) -> dict[str, Any]:
    """The [method] table, with the noise that the wanted epsilon takes of a model with `size` values."""
    table: dict[str, Any] = dict(cell["method"])
    if cell["epsilon"] is None:
        return table
    plain = {"error_clip": 0.0, "sampling": "poisson"} if table["name"] == "dp_sgd" else {}
    known = {name: value for name, value in {**plain, **table}.items() if name in Training.__struct_fields__}
    how = noise_for(msgspec.convert(known, Training), size, cell["rounds"], cell["epsilon"], cell["delta"])
    return table | {"noise_multiplier": how.noise_multiplier, "delta": cell["delta"]}


@dataclass
class _Witness:
    """The server's own copy, which keeps the weights that it is asked to score: what an honest but curious server has."""

    own: Any
    seen: list[FloatArray] = field(default_factory=list)

    @property
    def schema(self) -> Schema:
        found: Schema = self.own.schema
        return found

    @property
    def samples(self) -> int:
        return 0

    def initial(self, seed: int) -> FloatArray:
        found: FloatArray = self.own.initial(seed)
        return found

    def train(self, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> FloatArray:
        found: FloatArray = self.own.train(start, how, rng)
        return found

    def evaluate(self, weights: FloatArray) -> dict[str, float]:
        self.seen.append(weights.copy())
        found: dict[str, float] = self.own.evaluate(weights)
        return found


def _look(own: Any, weights: FloatArray, x: Array, y: Array) -> tuple[Array, Array]:
    """phi of each record, and whether its class comes out highest."""
    import torch

    own.load(weights)
    own.module.eval()
    with torch.no_grad():
        parts = [own.module(part).numpy() for part in torch.split(torch.from_numpy(np.asarray(x)), BATCH)]
    outputs = np.concatenate(parts)
    return confidence(outputs, np.asarray(y)), outputs.argmax(axis=1) == y
