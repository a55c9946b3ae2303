"""FedPCA on the server: add up moments, find the basis that everybody's bases agree on, take a quantile of their scores.

What a client said last in a phase is remembered under its name, so that a client that answers twice counts once, and one that
is not asked this round still counts.
"""

from collections.abc import Mapping, Sequence
from math import sqrt

import numpy as np

from edgehold.core.anomaly import Detector, Doubles, Reading, orthonormal, shape_of
from edgehold.core.contract import Cohort, Facts, Packed, Weighted
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.vectors import Array, FloatArray, Schema, Space, Vector, written
from edgehold.defenses.fedpca import subspace
from edgehold.defenses.fedpca.state import (
    ANSWERS,
    HIGHEST,
    ORTHONORMAL,
    Basis,
    Histogram,
    Moments,
    Order,
    Settings,
    State,
    Training,
    Update,
    edges,
)
from edgehold.defenses.memory import Memory, Rows

CONSTANT = 1e-12
"""A column whose variance is below this share of its mean square is constant, and gets width 1."""


class FedPcaServer:
    """settings: the plan's; schema: the model's; seed: training seed of the run. `ConfigError` for another kind of model."""

    def __init__(self, settings: Settings, schema: Schema, seed: int) -> None:
        self._settings, self._schema, self._seed = settings, schema, seed
        try:
            self._d, self._k = shape_of(schema)
        except WrongShape as error:
            raise ConfigError(f"FedPCA fits a subspace: {error.message}", field="run.task") from None
        self._training = Training(**{name: getattr(settings, name) for name in Training.__struct_fields__})

    def start(self, model: Vector) -> State:
        """The model as it is, its subspace made orthonormal by whoever works with it. `ConfigError` when it is none."""
        try:
            Detector.of(self._schema, model.whole())
        except WrongShape as error:
            raise ConfigError(f"these first weights are no model of FedPCA: {error.message}", field="model.file") from None
        return State(model)

    def open(self, state: State, cohort: Cohort) -> Order:
        """The same for everyone; in the phase "subspace" with means and widths as long as somebody has not worked with them."""
        phase, parts = self._settings.phase(state.closed + 1), self._parts(state)
        mean, width, basis = (parts[name] if phase != "standardise" else None for name in ("mean", "width", "subspace"))
        if (
            phase == "subspace"
            and state.phase == phase
            and set(cohort.clients) <= set(state.memory.names if state.memory else ())
        ):
            mean = width = None
        if basis is not None:
            basis = self._sendable(basis)
        reading = Reading.of(parts["reading"])
        return Order(self._seed, state.closed + 1, phase, self._training, reading, self._settings.bins, mean, width, basis)

    def claim(self, update: Update) -> float:
        """The claimed number of records."""
        return float(update.samples)

    def close(self, state: State, updates: Sequence[Weighted[Update]], space: Space) -> tuple[State, Facts]:
        """The model after the round. Answers to another phase, which no honest device gives, are left out and counted."""
        phase, parts = self._settings.phase(state.closed + 1), self._parts(state)
        fitting = [one for one in updates if isinstance(one.update, ANSWERS[phase])]
        before = state.memory.read() if state.memory and state.phase == phase else {}
        facts: Facts = {"updates_misplaced": float(len(updates) - len(fitting))}
        rows = before | {one.client: self._row(one, before, parts) for one in fitting}
        if fitting:
            found, more = {"standardise": self._standardised, "subspace": self._agreed, "threshold": self._cut}[phase](
                rows, fitting, parts
            )
            parts, facts = {**parts, **found}, facts | more
        return self._state(state.closed + 1, phase, rows, parts, space), facts

    def weights(self, state: State, space: Space) -> Vector:
        """The model as it is."""
        return state.model

    def pack(self, state: State) -> Packed:
        """Model and what is remembered of whom."""
        blobs = {"model": state.model.blob} | (state.memory.blobs() if state.memory else {})
        return Packed(blobs, {"closed": state.closed, "phase": state.phase})

    def unpack(self, packed: Packed) -> State:
        """Inverse of `pack`."""
        if "model" not in packed.blobs:
            raise ConfigError(f"stored state has {sorted(packed.blobs)}; a model is missing")
        blobs, scalars = packed.blobs, packed.scalars
        return State(Vector(blobs["model"]), int(scalars["closed"]), str(scalars["phase"]), Memory.stored(blobs))

    # ---- the phases: rows and this round's updates to new tensors and facts

    def _row(self, one: Weighted[Update], before: Rows, parts: Mapping[str, FloatArray]) -> Doubles:
        """What is remembered of an update. A weight may be smaller than the claim: what was summed is weighed down with it."""
        update = one.update
        match update:
            case Moments():
                said = np.concatenate([update.sums, update.squares]) / update.samples
            case Histogram():
                said = update.counts.astype(np.float64) / update.samples
            case Basis():
                said = np.zeros(0)
                if self._settings.mode == "fedpg":
                    said = update.basis.astype(np.float64).reshape(-1)
                    if not update.fresh and one.client in before:
                        # A = U + y with y = y_before + U_before - Z = A_before - Z: the dual need not be sent.
                        said = said + before[one.client][1:] - self._sendable(parts["subspace"]).astype(np.float64).reshape(-1)
        return np.concatenate([[one.weight], said])

    def _standardised(
        self, rows: Rows, fitting: Sequence[Weighted[Update]], parts: Mapping[str, FloatArray]
    ) -> tuple[dict[str, Array], Facts]:
        pooled = _mean(rows)
        mean, square = pooled[: self._d], pooled[self._d :]
        variance = square - mean * mean
        constant = variance <= CONSTANT * square
        width = np.sqrt(np.where(constant, 1.0, variance)).astype(np.float32)
        width[width == 0] = 1.0  # a deviation that float32 does not hold
        return {"mean": mean.astype(np.float32), "width": width}, {"columns_constant": float(constant.sum())}

    def _agreed(
        self, rows: Rows, fitting: Sequence[Weighted[Update]], parts: Mapping[str, FloatArray]
    ) -> tuple[dict[str, Array], Facts]:
        bases = [one.update.basis.astype(np.float64) for one in fitting if isinstance(one.update, Basis)]
        if self._settings.mode == "fedpg":
            pooled = _mean(rows).reshape(self._d, self._k)
        else:
            total = sum(one.weight for one in fitting)
            pooled = np.asarray(sum(one.weight / total * basis for one, basis in zip(fitting, bases, strict=True)))
        # FedPE's mean need not be orthonormal; a mean that lost a dimension would be no subspace of k at all.
        z = pooled if self._settings.mode == "fedpe" else orthonormal(pooled)[0]
        found = z.astype(np.float32)
        if orthonormal(found.astype(np.float64))[1] < self._k:
            return {}, {}
        old, new = (orthonormal(one.astype(np.float64))[0] for one in (parts["subspace"], found))
        gap = sqrt(float(np.mean([np.square(basis - z).sum() for basis in bases])))
        return {"subspace": found}, {"consensus_gap": gap, "subspace_turn": subspace.angle(new, old)}

    def _cut(
        self, rows: Rows, fitting: Sequence[Weighted[Update]], parts: Mapping[str, FloatArray]
    ) -> tuple[dict[str, Array], Facts]:
        threshold = np.float32(quantile(_mean(rows), 1.0 - self._settings.false_alarms))
        return {"threshold": np.array([threshold])}, {"alarm_threshold": float(threshold)}

    # ---- the state

    def _parts(self, state: State) -> dict[str, FloatArray]:
        return self._schema.unflatten(state.model.whole())

    def _sendable(self, basis: FloatArray) -> FloatArray:
        """The basis as an order says it: a first one from a file may be any, and FedPE's stays what it is."""
        if self._settings.mode == "fedpe" or subspace.error(basis.astype(np.float64)) <= ORTHONORMAL / 10:
            return basis
        return orthonormal(basis.astype(np.float64))[0].astype(np.float32)

    def _state(self, closed: int, phase: str, rows: Rows, parts: Mapping[str, Array], space: Space) -> State:
        return State(written(self._schema.flatten(parts), space), closed, phase, Memory.of(rows, space))


def quantile(shares: Doubles, level: float) -> float:
    """Score below which that share of a histogram lies; within a bin scores count as even. shares: (bins,), any scale.

    Beyond `HIGHEST` nothing is told apart: that is the answer then.
    """
    bounds = np.concatenate([[0.0], edges(len(shares)), [HIGHEST]])
    rising = np.concatenate([[0.0], np.cumsum(shares)])
    wanted = level * rising[-1]
    at = min(int(np.searchsorted(rising[1:], wanted)), len(shares) - 1)
    part = (wanted - rising[at]) / shares[at] if shares[at] > 0 else 0.0
    return float(bounds[at] + min(max(part, 0.0), 1.0) * (bounds[at + 1] - bounds[at]))


def _mean(rows: Rows) -> Doubles:
    """Weighted mean of what was said, in the order of the names, so that it repeats exactly."""
    total = sum(rows[name][0] for name in sorted(rows))
    return np.asarray(sum(rows[name][0] / total * rows[name][1:] for name in sorted(rows)))


def server_side(settings: Settings, schema: Schema, seed: int) -> FedPcaServer:
    """The server half."""
    return FedPcaServer(settings, schema, seed)
