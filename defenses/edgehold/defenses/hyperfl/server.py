"""HyperFL on the server: fold changes of phi as FedAvg folds changes of a model. It never sees a device's model."""

from collections.abc import Sequence

import numpy as np

from edgehold.core.contract import Cohort, Facts, Packed, Weighted
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.hyper import dense, initial
from edgehold.core.masks.combine import Blend
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.terms import Terms
from edgehold.core.rng import stream
from edgehold.core.vectors import Schema, Space, Tensor, Vector, written
from edgehold.defenses.baselines.fedavg import state as fedavg
from edgehold.defenses.baselines.fedavg.server import FedAvgServer
from edgehold.defenses.hyperfl.state import SPREAD, Order, Settings, State, Training, Update, layout_of


class HyperFLServer:
    """settings: the plan's; schema: the model's; seed: training seed of the run. `ConfigError` for a model of one layer."""

    def __init__(self, settings: Settings, schema: Schema, seed: int) -> None:
        self._schema, self._seed = schema, seed
        self._layout = layout_of(schema, settings)
        self._training = Training(**{name: getattr(settings, name) for name in Training.__struct_fields__})
        self._fold = FedAvgServer(settings.folding(), Schema((Tensor("phi", (self._layout.size,)),)), seed)

    def start(self, model: Vector) -> State:
        """phi drawn from the seed around the first model, whose backbone and head are put aside for `weights`."""
        if model.size != self._schema.size:
            raise WrongShape(f"initial model of {model.size} values; the schema has {self._schema.size}")
        phi = initial(self._layout, model.whole(), self._seed, SPREAD)
        return State(self._fold.start(Vector.of(phi)), Vector.of(self._layout.rest(model.whole())))

    def open(self, state: State, cohort: Cohort) -> Order:
        """The same order for everyone."""
        return Order(state.phi.model, self._training, self._seed)

    def claim(self, update: Update) -> float:
        """The claimed sample count."""
        return self._fold.claim(update)

    def close(self, state: State, updates: Sequence[Weighted[Update]], space: Space) -> tuple[State, Facts]:
        """phi after one step by the combined change; `ConfigError` when the rule cannot work with so few updates."""
        phi, facts = self._fold.close(state.phi, updates, space)
        return self._kept(state, phi, space), facts

    def fold(self, state: State, groups: Sequence[GroupSum], terms: Terms, blend: Blend, space: Space) -> tuple[State, Facts]:
        """phi after one step by the mean change, as masked sums over groups say it."""
        phi, facts = self._fold.fold(state.phi, groups, terms, blend, space)
        return self._kept(state, phi, space), facts

    def _kept(self, state: State, phi: fedavg.State, space: Space) -> State:
        # Once more, so that whoever keeps the state finds all of it in the space.
        return State(phi, written(state.rest.whole(), space))

    def weights(self, state: State, space: Space) -> Vector:
        """No global model exists. These are the weights that phi generates from a public embedding, drawn from the run's seed,
        behind the head of the first model, which is never trained: their accuracy says nothing about any device's.
        """
        v = stream(self._seed, "hyperfl", "reference").standard_normal(self._layout.embedding, dtype=np.float32)
        sink = space.sink(self._schema.size)
        for values in dense(self._layout, state.phi.model, v, state.rest):
            sink.write(values.astype("<f4"))
        return sink.finish()

    def pack(self, state: State) -> Packed:
        """phi under "model", what the rule remembers, and what was put aside."""
        packed = self._fold.pack(state.phi)
        return Packed({**packed.blobs, "rest": state.rest.blob}, packed.scalars)

    def unpack(self, packed: Packed) -> State:
        """Inverse of `pack`."""
        if "rest" not in packed.blobs:
            raise ConfigError(f"stored state has {sorted(packed.blobs)}; the rest of the first model is missing")
        return State(self._fold.unpack(packed), Vector(packed.blobs["rest"]))


def server_side(settings: Settings, schema: Schema, seed: int) -> HyperFLServer:
    """The server half."""
    return HyperFLServer(settings, schema, seed)
