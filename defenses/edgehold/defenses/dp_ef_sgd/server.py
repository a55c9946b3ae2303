"""DP-EF SGD on the server: FedAvg over noisy updates of equal weight, and an account of what each client has spent."""

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from edgehold.core.contract import Cohort, Facts, Packed, Weighted
from edgehold.core.masks.combine import Blend
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.terms import Terms
from edgehold.core.vectors import Schema, Space, Vector
from edgehold.defenses.baselines.fedavg import state as fedavg
from edgehold.defenses.baselines.fedavg.server import FedAvgServer
from edgehold.defenses.dp_ef_sgd.accounts import epsilon_after
from edgehold.defenses.dp_ef_sgd.state import Order, Settings, State, Update


class DpEfSgdServer:
    """settings: the plan's; schema: the model's; seed: training seed of the run."""

    def __init__(self, settings: Settings, schema: Schema, seed: int) -> None:
        self._settings, self._schema, self._seed = settings, schema, seed
        self._combine = FedAvgServer(settings.combining(), schema, seed)
        self._training = settings.training()

    def start(self, model: Vector) -> State:
        """State before the first round."""
        return State(self._combine.start(model), {})

    def open(self, state: State, cohort: Cohort) -> Order:
        """The same order for everyone."""
        return Order(state.combined.model, self._training, self._seed)

    def claim(self, update: Update) -> float:
        """1: how many records a device has is private."""
        return 1.0

    def close(self, state: State, updates: Sequence[Weighted[Update]], space: Space) -> tuple[State, Facts]:
        """FedAvg's step. Facts tell what this run's admitted rounds cost the clients; devices' own ledgers know more, such
        as other runs on the same data and rounds that were charged and never arrived.
        """
        plain = [Weighted(one.client, one.weight, fedavg.Update(one.update.delta, 1, one.update.norm)) for one in updates]
        combined, facts = self._combine.close(state.combined, plain, space)
        return self._charged(state, combined, (one.client for one in updates), facts)

    def fold(self, state: State, groups: Sequence[GroupSum], terms: Terms, blend: Blend, space: Space) -> tuple[State, Facts]:
        """FedAvg's step by masked sums. Whoever survived in a group has spent; who was in a void group stands in its device's
        own ledger alone.
        """
        combined, facts = self._combine.fold(state.combined, groups, terms, blend, space)
        return self._charged(state, combined, (client for group in groups for client in group.survivors), facts)

    def weights(self, state: State, space: Space) -> Vector:
        """The model as it is."""
        return state.combined.model

    def pack(self, state: State) -> Packed:
        """FedAvg's state, and rounds by client."""
        packed = self._combine.pack(state.combined)
        rounds = json.dumps(dict(state.rounds), sort_keys=True)
        return Packed(packed.blobs, {**packed.scalars, "rounds": rounds})

    def unpack(self, packed: Packed) -> State:
        """Inverse of `pack`."""
        return State(self._combine.unpack(packed), json.loads(str(packed.scalars.get("rounds", "{}"))))

    def _charged(self, state: State, combined: fedavg.State, clients: Iterable[str], facts: Facts) -> tuple[State, Facts]:
        rounds = dict(state.rounds)
        for client in clients:
            rounds[client] = rounds.get(client, 0) + 1
        return State(combined, rounds), facts | self._spent(rounds)

    def _spent(self, rounds: Mapping[str, int]) -> Facts:
        found = [epsilon_after(self._training, self._schema.size, count, self._settings.delta) for count in rounds.values()]
        return {"epsilon_worst": max(found), "epsilon_median": median(found)}


def server_side(settings: Settings, schema: Schema, seed: int) -> DpEfSgdServer:
    """The server half."""
    return DpEfSgdServer(settings, schema, seed)
