"""FLORAL on the server: average the heads, or combine them by a robust rule, as FedAvg folds changes of a model."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgehold.core.contract import Cohort, Facts, Packed, Weighted
from edgehold.core.masks.combine import Blend
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.terms import Terms
from edgehold.core.vectors import Schema, Space, Vector
from edgehold.defenses.baselines.fedavg import state as fedavg
from edgehold.defenses.baselines.fedavg.server import FedAvgServer
from edgehold.defenses.floral.features import head_of
from edgehold.defenses.floral.state import Order, Settings, State, Training, Update, agree


class FloralServer:
    """settings: the plan's; schema: the model's; seed: training seed of the run. `ConfigError` for a model that is no head over
    features, or over others than the plan's.
    """

    def __init__(self, settings: Settings, schema: Schema, seed: int) -> None:
        agree(settings, head_of(schema), "the server's task")
        self._seed = seed
        self._training = Training(**{name: getattr(settings, name) for name in Training.__struct_fields__})
        self._fold = FedAvgServer(settings.folding(), schema, seed)
        self._nothing = Vector.of(np.zeros(schema.size, np.float32))

    def start(self, model: Vector) -> State:
        """The first head: 0 from the task, or a file's, on which coupled devices build."""
        return State(self._fold.start(model))

    def open(self, state: State, cohort: Cohort) -> Order:
        """The same order for everyone."""
        return Order(state.heads.model, self._training, self._seed)

    def claim(self, update: Update) -> float:
        """The claimed sample count."""
        return self._fold.claim(update)

    def close(self, state: State, updates: Sequence[Weighted[Update]], space: Space) -> tuple[State, Facts]:
        """The combined head; `ConfigError` when the rule cannot work with so few updates.

        Heads are folded as changes of a head of 0: their mean is the head of the pooled dual weights, each over the number of
        devices, and a rule sees them as they are.
        """
        return self._moved(state, *self._fold.close(replace(state.heads, model=self._nothing), updates, space))

    def fold(self, state: State, groups: Sequence[GroupSum], terms: Terms, blend: Blend, space: Space) -> tuple[State, Facts]:
        """The mean head, as masked sums over groups say it."""
        return self._moved(state, *self._fold.fold(replace(state.heads, model=self._nothing), groups, terms, blend, space))

    def _moved(self, state: State, heads: fedavg.State, facts: Facts) -> tuple[State, Facts]:
        apart = heads.model.whole().astype(np.float64) - state.heads.model.whole()
        return State(heads), {**facts, "step_norm": float(np.sqrt(np.add.reduce(apart * apart)))}

    def weights(self, state: State, space: Space) -> Vector:
        """The head as it is."""
        return state.heads.model

    def pack(self, state: State) -> Packed:
        """As FedAvg packs a model."""
        return self._fold.pack(state.heads)

    def unpack(self, packed: Packed) -> State:
        """Inverse of `pack`."""
        return State(self._fold.unpack(packed))


def server_side(settings: Settings, schema: Schema, seed: int) -> FloralServer:
    """The server half."""
    return FloralServer(settings, schema, seed)
