"""FRL on the server: add up ranks, sort. One integer per edge of one layer at a time, however many devices vote."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgehold.core.contract import Cohort, Facts, Packed, Weighted
from edgehold.core.errors import WrongShape
from edgehold.core.masks.combine import ENOUGH, Blend
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.terms import Terms
from edgehold.core.vectors import Array, Schema, Space, Vector
from edgehold.defenses.frl.coding import entropy_coded
from edgehold.defenses.frl.forms import PACKED, EncodedRanks, encoded, pieces_of
from edgehold.defenses.frl.sorting import inverse, sorted_places
from edgehold.defenses.frl.state import (
    Order,
    Ranking,
    Ranks,
    Settings,
    State,
    Training,
    Update,
    cut_ranks,
    scores_of,
    weights_of,
)
from edgehold.defenses.layers import Layer, layers_of

Votes = NDArray[np.int32] | NDArray[np.int64]
"""(n,) sum of the ranks that each edge got."""


class FrlServer:
    """settings: the plan's; schema: the model's; seed: training seed of the run. `ConfigError` for a model with anything
    but weights of two or more dimensions.
    """

    def __init__(self, settings: Settings, schema: Schema, seed: int) -> None:
        self._settings, self._schema, self._seed = settings, schema, seed
        self._layers = layers_of(schema, "FRL")
        self._edges = tuple(layer.edges for layer in self._layers)
        self._forms = (PACKED,) * len(self._layers)
        self._training = Training(**{name: getattr(settings, name) for name in Training.__struct_fields__})

    def start(self, model: Vector) -> State:
        """State before the first round. The values of `model` are not used: weights and scores come from the seed."""
        if model.size != self._schema.size:
            raise WrongShape(f"initial model of {model.size} values; the schema has {self._schema.size}")
        ranks = [self._scores(number, layer)[1] for number, layer in enumerate(self._layers)]
        return State(Vector(encoded(ranks, self._forms), "u1"))

    def open(self, state: State, cohort: Cohort) -> Order:
        """The same order for everyone."""
        coded = entropy_coded(self._settings, self._edges)
        return Order(self._seed, cohort.round, self._ranks(state), self._training, coded, self._settings.share)

    def claim(self, update: Update) -> float:
        """Every vote counts the same."""
        return 1.0

    def close(self, state: State, updates: Sequence[Weighted[Update]], space: Space) -> tuple[State, Facts]:
        """Borda count per layer, A = argsort(V) with ties by edge id. Weights are ignored: one device, one vote.

        Integer sums: bit-identical wherever and in whatever order they are made.
        """

        def votes(number: int, layer: Layer) -> Votes:
            return count([one.update.ranks for one in updates], number, layer.edges)

        return self._voted(state, votes, self._settings.liars, space)

    def fold(self, state: State, groups: Sequence[GroupSum], terms: Terms, blend: Blend, space: Space) -> tuple[State, Facts]:
        """As `close`, by the ranks' sums over groups. Exact: fewer than five groups give what `close` gives.

        The fact `edges_contested` is told of fewer than five groups: there a liar can take back what the other s - 1 members of
        its group voted, and vote s times itself.
        """

        def votes(number: int, layer: Layer) -> Array:
            # All means of a layer have one denominator, so that their numerators rank the edges.
            return blend.exact(groups, layer.start, layer.start + layer.edges)[0]

        sizes = sorted((len(group.survivors) for group in groups), reverse=True)
        lies = sum(2 * size - 1 for size in sizes[: self._settings.liars])
        return self._voted(state, votes, lies if len(groups) < ENOUGH else 0, space)

    def _voted(self, state: State, votes_of: Callable[[int, Layer], Array], lies: int, space: Space) -> tuple[State, Facts]:
        """votes_of: number and layer -> (n,) integers that are not negative; lies: votes of liars reckoned with; 0: no fact."""
        before = self._ranks(state)
        sink = space.sink(before.blob.size, "u1")
        swapped = contested = 0
        for number, layer in enumerate(self._layers):
            votes = votes_of(number, layer)
            ranking = sorted_places(votes)
            ranks, cut = inverse(ranking), self._cut(number, layer)
            for part in PACKED.write(ranks):
                sink.write(part)
            swapped += int(np.count_nonzero(_used(ranks, cut) & ~_used(before[number], cut)))
            if lies:
                contested += int(np.count_nonzero(in_reach(votes, ranking, cut, lies)))
        facts = {"edges_swapped": swapped / self._schema.size}
        if lies:
            facts["edges_contested"] = contested / self._schema.size
        return State(sink.finish()), facts

    def weights(self, state: State, space: Space) -> Vector:
        """The fixed weights where an edge is used, 0 elsewhere."""
        sink = space.sink(self._schema.size)
        for number, (layer, ranks) in enumerate(zip(self._layers, self._ranks(state), strict=True)):
            full = weights_of(self._seed, number, layer.edges, layer.fan_in)
            sink.write(np.where(_used(ranks, self._cut(number, layer)), full, np.float32(0)))
        return sink.finish()

    def pack(self, state: State) -> Packed:
        """The packed ranks alone."""
        return Packed({"model": state.ranks.blob})

    def unpack(self, packed: Packed) -> State:
        """Inverse of `pack`."""
        return State(Vector(packed.blobs["model"], "u1"))

    def _ranks(self, state: State) -> EncodedRanks:
        return EncodedRanks(state.ranks.blob, self._edges, self._forms)

    def _scores(self, number: int, layer: Layer) -> tuple[Array, Ranks]:
        return scores_of(self._seed, number, layer.edges, layer.fan_in, self._settings.signed)

    def _cut(self, number: int, layer: Layer) -> tuple[int, int]:
        """Ranks that the network does not use: from the first up to the second."""
        dropped = layer.dropped(self._settings.keep)
        return cut_ranks(self._scores(number, layer)[0], dropped) if self._settings.signed else (0, dropped)


def count(votes: Sequence[Sequence[Ranks]], layer: int, edges: int) -> Votes:
    """V[edge]: sum of its ranks over all votes. votes: everybody's ranks of every layer; layer: the one that is counted.

    Exact: int32 where M (n - 1) fits, which is faster, else int64, which holds 2^32 votes on the largest layer. Ranks lie
    in the order of the edges, so that this is a plain sum; nothing is looked up by a number that came from outside.
    """
    found: Array = np.zeros(edges, dtype=np.int32 if len(votes) * (edges - 1) < 1 << 31 else np.int64)
    for vote in votes:
        for start, ranks in pieces_of(vote, layer):
            found[start : start + len(ranks)] += ranks
    return found


def in_reach(votes: Votes, ranking: Ranking, cut: tuple[int, int], liars: int) -> Array:
    """Which edges that many liars could take into the network or out of it if `votes` were the honest ones, (n,) bool.

    ranking: edges by rising votes; cut: ranks from the first up to the second are not used. A liar moves the difference of
    two edges by at most n - 1; so an edge is safe from crossing one end of the cut where its votes differ from those of the
    first edge beyond by more than liars * (n - 1).
    """
    reach = np.zeros(len(votes), dtype=bool)
    span = liars * (len(votes) - 1)
    for end in cut:
        if liars and 0 < end < len(votes):
            below, above = ranking[:end], ranking[end:]
            reach[above] |= votes[above] - votes[below[-1]] <= span
            reach[below] |= votes[above[0]] - votes[below] <= span
    return reach


def _used(ranks: Ranks, cut: tuple[int, int]) -> Array:
    """(n,) bool: which edges the network uses."""
    low, high = cut
    used: Array = ranks >= high
    if low:
        used |= ranks < low
    return used


def server_side(settings: Settings, schema: Schema, seed: int) -> FrlServer:
    """The server half."""
    return FrlServer(settings, schema, seed)
