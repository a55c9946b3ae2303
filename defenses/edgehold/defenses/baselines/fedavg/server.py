"""FedAvg on the server: clip, combine by a rule, step. Streams over column blocks: no n x d array ever stands in memory."""

from collections.abc import Sequence
from math import sqrt
from statistics import median

import numpy as np

from edgehold.core.contract import Cohort, Facts, Packed, Weighted
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.masks.combine import Blend
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.terms import Terms
from edgehold.core.rng import stream
from edgehold.core.vectors import Array, Schema, Sink, Space, Vector, finite_norm
from edgehold.defenses.baselines.fedavg.state import Order, Settings, State, Training, Update
from edgehold.defenses.baselines.rules import Round, VectorRows, recipe

_LARGEST = float(np.finfo(np.float32).max)


class FedAvgServer:
    """settings: the plan's; schema: the model's; seed: training seed of the run."""

    def __init__(self, settings: Settings, schema: Schema, seed: int) -> None:
        self._settings = settings
        self._schema = schema
        self._seed = seed
        self._rule = recipe(settings.rule, settings.rule_options)
        self._training = Training(**{name: getattr(settings, name) for name in Training.__struct_fields__})

    def start(self, model: Vector) -> State:
        """State before the first round."""
        if model.size != self._schema.size:
            raise WrongShape(f"initial model of {model.size} values; the schema has {self._schema.size}")
        return State(model)

    def open(self, state: State, cohort: Cohort) -> Order:
        """The same order for everyone."""
        return Order(state.model, self._training, self._seed, self._settings.client_momentum)

    def claim(self, update: Update) -> float:
        """The claimed sample count."""
        return float(update.samples)

    def close(self, state: State, updates: Sequence[Weighted[Update]], space: Space) -> tuple[State, Facts]:
        """Model after one step by the combined update; `ConfigError` when the rule cannot work with so few updates.

        Bit-identical wherever it is computed from the same updates in the same order.
        """
        settings = self._settings
        self._rule.check(len(updates), settings.liars)
        deltas = [weighted.update.delta for weighted in updates]
        norms = [finite_norm(one.update.delta) if one.update.norm is None else one.update.norm for one in updates]
        clip = settings.clip_norm
        scales = [1.0 if clip is None or norm <= clip else clip / norm for norm in norms]
        memory = space.sink(self._schema.size) if self._rule.remembers else None
        step = Step(state, settings.server_momentum, settings.server_learning_rate, space, memory)
        now = Round(
            liars=settings.liars,
            weights=[weighted.weight for weighted in updates],
            clients=[weighted.client for weighted in updates],
            previous=state.combined,
            rng=stream(self._seed, "rule", state.draws),
        )
        self._rule.aggregate(VectorRows(deltas, scales), now, step)
        model = step.finish()
        combined = memory.finish() if memory is not None else None
        return State(model, step.velocity(), combined, state.draws + self._rule.seeded), {
            "updates_clipped": float(sum(scale < 1.0 for scale in scales)),
            "update_norm_median": median(norms),
            "step_norm": step.norm,
        }

    def fold(self, state: State, groups: Sequence[GroupSum], terms: Terms, blend: Blend, space: Space) -> tuple[State, Facts]:
        """Model after one step by the mean change, as masked sums over groups say it: the average rule alone."""
        step, grid = Step(state, self._settings.server_momentum, self._settings.server_learning_rate, space), terms.grid
        for block in blend.means(groups):
            step.write(grid.decode(block, 1))
        model = step.finish()
        return State(model, step.velocity(), None, state.draws), {"step_norm": step.norm}

    def weights(self, state: State, space: Space) -> Vector:
        """The model as it is."""
        return state.model

    def pack(self, state: State) -> Packed:
        """Model, velocity, last combined update, and how often the rule drew."""
        blobs = {"model": state.model.blob}
        if state.velocity is not None:
            blobs["velocity"] = state.velocity.blob
        if state.combined is not None:
            blobs["combined"] = state.combined.blob
        return Packed(blobs, {"draws": state.draws} if state.draws else {})

    def unpack(self, packed: Packed) -> State:
        """Inverse of `pack`."""
        model, velocity, combined = (
            Vector(packed.blobs[name]) if name in packed.blobs else None for name in ("model", "velocity", "combined")
        )
        if model is None:
            raise ConfigError(f"stored state has {sorted(packed.blobs)}; a model is missing")
        return State(model, velocity, combined, int(packed.scalars.get("draws", 0)))


class Step:
    """Takes the combined update block by block and writes v' = beta v + update and w' = w + eta v' as it comes.

    memory: where the combined update itself is kept for the next round.

    Source: FedAvgM, Hsu et al. 2019, arXiv:1909.06335; beta 0 and eta 1 are plain FedAvg.
    """

    def __init__(self, state: State, beta: float, eta: float, space: Space, memory: Sink | None = None) -> None:
        self._state, self._beta, self._eta = state, beta, eta
        size = state.model.size
        self._model: Sink = space.sink(size)
        self._velocity: Sink | None = space.sink(size) if beta > 0 else None
        self._at, self._squares = 0, 0.0
        self._memory = memory

    def write(self, values: Array) -> None:
        """The next values of the combined update."""
        start, stop = self._at, self._at + len(values)
        self._at = stop
        moved = values.astype(np.float64)
        if self._memory is not None:
            self._memory.write(_float32(moved))
        if self._velocity is not None:
            if self._state.velocity is not None:
                moved += self._beta * self._state.velocity.read(start, stop).astype(np.float64)
            moved = _float32(moved)
            self._velocity.write(moved)
        old = self._state.model.read(start, stop).astype(np.float64)
        new = _float32(old + self._eta * moved.astype(np.float64))
        self._model.write(new)
        change = new.astype(np.float64) - old
        self._squares += float(np.add.reduce(change * change))

    def finish(self) -> Vector:
        """The new model, once everything is written."""
        return self._model.finish()

    def velocity(self) -> Vector | None:
        """The running sum of steps; None without momentum."""
        return self._velocity.finish() if self._velocity is not None else None

    @property
    def norm(self) -> float:
        """Euclidean norm of the change of the model."""
        return sqrt(self._squares)


def _float32(values: Array) -> Array:
    """Rounded to float32; values beyond its range become its largest, so that a model stays finite whatever arrives."""
    return np.clip(values, -_LARGEST, _LARGEST).astype("<f4")


def server_side(settings: Settings, schema: Schema, seed: int) -> FedAvgServer:
    """The server half."""
    return FedAvgServer(settings, schema, seed)
