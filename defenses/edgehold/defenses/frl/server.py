"""FRL on the server: add up ranks, sort. One int64 per edge of one layer at a time, however many devices vote."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgehold.core.contract import Cohort, Facts, Packed, Weighted
from edgehold.core.errors import WrongShape
from edgehold.core.vectors import Array, Schema, Space, Vector
from edgehold.defenses.frl.packing import PackedRankings, pack, packed, packed_bytes
from edgehold.defenses.frl.state import (
    Order,
    Ranking,
    Settings,
    State,
    Training,
    Update,
    layers,
    ranking_of,
    ranks_of,
    scores_of,
    weights_of,
)

Votes = NDArray[np.int64]
"""(n,) sum of the ranks that each edge got."""


class FrlServer:
    """settings: the plan's; schema: the model's; seed: training seed of the run. `ConfigError` for a model with anything
    but weights of two or more dimensions.
    """

    def __init__(self, settings: Settings, schema: Schema, seed: int) -> None:
        self._settings, self._schema, self._seed = settings, schema, seed
        self._layers = layers(schema)
        self._edges = tuple(layer.edges for layer in self._layers)
        self._training = Training(**{name: getattr(settings, name) for name in Training.__struct_fields__})

    def start(self, model: Vector) -> State:
        """State before the first round. The values of `model` are not used: weights and scores come from the seed."""
        if model.size != self._schema.size:
            raise WrongShape(f"initial model of {model.size} values; the schema has {self._schema.size}")
        rankings = [scores_of(self._seed, number, layer.edges, layer.fan_in)[1] for number, layer in enumerate(self._layers)]
        return State(Vector(packed(rankings), "u1"))

    def open(self, state: State, cohort: Cohort) -> Order:
        """The same order for everyone."""
        return Order(self._seed, cohort.round, self._rankings(state), self._training)

    def claim(self, update: Update) -> float:
        """Every vote counts the same."""
        return 1.0

    def close(self, state: State, updates: Sequence[Weighted[Update]], space: Space) -> tuple[State, Facts]:
        """Borda count per layer, A = argsort(V) with ties by edge id. Weights are ignored: one device, one vote.

        Integer sums: bit-identical wherever and in whatever order they are made.
        """
        before = self._rankings(state)
        sink = space.sink(sum(map(packed_bytes, self._edges)), "u1")
        moved = contested = 0
        for number, layer in enumerate(self._layers):
            votes = count((one.update.rankings[number] for one in updates), layer.edges)
            ranking, dropped = ranking_of(votes), layer.dropped(self._settings.keep)
            for part in pack(ranking):
                sink.write(part)
            moved += int(np.setdiff1d(ranking[dropped:], before[number][dropped:], assume_unique=True).size)
            contested += int(in_reach(votes, ranking, dropped, self._settings.liars).sum())
        facts = {"edges_swapped": moved / self._schema.size}
        if self._settings.liars:
            facts["edges_contested"] = contested / self._schema.size
        return State(sink.finish()), facts

    def weights(self, state: State, space: Space) -> Vector:
        """The fixed weights where an edge is kept, 0 elsewhere."""
        sink = space.sink(self._schema.size)
        for number, (layer, ranking) in enumerate(zip(self._layers, self._rankings(state), strict=True)):
            dense = weights_of(self._seed, number, layer.edges, layer.fan_in).copy()
            dense[ranking[: layer.dropped(self._settings.keep)]] = 0.0
            sink.write(dense)
        return sink.finish()

    def pack(self, state: State) -> Packed:
        """The packed order alone."""
        return Packed({"model": state.rankings.blob})

    def unpack(self, packed: Packed) -> State:
        """Inverse of `pack`."""
        return State(Vector(packed.blobs["model"], "u1"))

    def _rankings(self, state: State) -> PackedRankings:
        return PackedRankings(state.rankings.blob, self._edges)


def count(rankings: Iterable[Ranking], edges: int) -> Votes:
    """V[edge]: sum of its ranks over all rankings. Exact: int64 holds 2^32 votes on the largest layer."""
    votes = np.zeros(edges, dtype=np.int64)
    for ranking in rankings:
        votes += ranks_of(ranking)
    return votes


def in_reach(votes: Votes, ranking: Ranking, dropped: int, liars: int) -> Array:
    """Which edges that many liars could take across the cut if `votes` were the honest ones, (n,) bool.

    A liar moves the difference of two edges by at most n - 1; so kept edges are safe from the first dropped one, and the
    other way round, where the votes differ by more than liars * (n - 1).
    """
    reach = np.zeros(len(votes), dtype=bool)
    if liars and 0 < dropped < len(votes):
        span = liars * (len(votes) - 1)
        kept, out = ranking[dropped:], ranking[:dropped]
        reach[kept] = votes[kept] - votes[out[-1]] <= span
        reach[out] = votes[kept[0]] - votes[out] <= span
    return reach


def server_side(settings: Settings, schema: Schema, seed: int) -> FrlServer:
    """The server half."""
    return FrlServer(settings, schema, seed)
