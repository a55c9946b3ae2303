"""Bristle on the server: a notice board. It says who sent what, and never sees whom a device trusts."""

import json
from collections.abc import Sequence

import numpy as np

from edgehold.core.contract import Cohort, Facts, Packed, Weighted
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import Array, Schema, Space, Vector, finite_norm, written
from edgehold.defenses.bristle import listing
from edgehold.defenses.bristle.codec import payload_digest
from edgehold.defenses.bristle.sketch import sketch
from edgehold.defenses.bristle.state import SKETCH, Order, Settings, State, Training, Update, head_shape


class BristleServer:
    """settings: the plan's; schema: the model's, a head of (d, C); seed: training seed of the run."""

    def __init__(self, settings: Settings, schema: Schema, seed: int) -> None:
        self._settings, self._seed = settings, seed
        self._shape = head_shape(schema)
        self._training = Training(**{name: getattr(settings, name) for name in Training.__struct_fields__})

    def start(self, model: Vector) -> State:
        """Nobody has sent anything. `ConfigError` for a head that is not zero: every device starts from zeros by itself."""
        if np.any(model.whole()):
            raise ConfigError(
                "Bristle's heads start at zero on every device, and no order carries one; leave model.file out",
                field="model.file",
            )
        return State(model, Vector.of(np.zeros(0, dtype=np.float32)))

    def open(self, state: State, cohort: Cohort) -> Order:
        """The same order for everyone: who sent what in the round before."""
        sketches = np.asarray(state.sketches.whole(), dtype=np.float32).reshape(-1, SKETCH)
        return Order(self._seed, state.round + 1, state.listing, sketches, state.before, self._training)

    def claim(self, update: Update) -> float:
        """A weight means nothing here: each device weighs its peers itself."""
        return 1.0

    def close(self, state: State, updates: Sequence[Weighted[Update]], space: Space) -> tuple[State, Facts]:
        """Lists the heads of the round, without those that were made for another round or listing, or break the law of norms.

        A sender that claims to have seen another listing is left out here, so that devices which find two may conclude that
        the server has shown two.
        """
        number, seen = state.round + 1, listing.digest_of(state.listing)
        fitting = [one for one in updates if (one.update.round, one.update.seen) == (number, seen)]
        lengths = np.array([self._longest(one.update) for one in fitting])
        # The first round has nothing before it: its own median stands in, or a head of any size would be read.
        usual = state.median or (float(np.median(lengths)) if fitting else 0.0)
        limit = self._settings.norm_factor * usual if self._settings.norm_factor and usual else np.inf
        listed = [one for one, length in zip(fitting, lengths, strict=True) if length <= limit]
        facts = {"heads_left_out": float(len(updates) - len(listed))}
        listed = self._drawn(number, listed)
        heads = [one.update.head.whole() for one in listed]
        mean: Array = np.asarray(np.mean(heads, axis=0, dtype=np.float64) if heads else state.model.whole())
        median = float(np.median([self._longest(one.update) for one in listed])) if listed else state.median
        facts["step_norm"] = finite_norm(Vector.of(mean - state.model.whole()))
        if listed:
            facts["update_norm_median"] = float(np.median([finite_norm(one.update.head) for one in listed]))
        found = {one.client: payload_digest(one.update) for one in listed}
        sketches = [sketch(head, self._seed) for head in heads]
        after = State(
            written(mean, space),
            written(np.concatenate(sketches) if sketches else np.zeros(0), space),
            found, number, seen, median,
        )  # fmt: skip
        return after, facts

    def weights(self, state: State, space: Space) -> Vector:
        """The mean of the heads listed, as a thing to score. Each device's own head is the product, and it stays there."""
        return state.model

    def pack(self, state: State) -> Packed:
        """Mean head, sketches, listing."""
        listed = json.dumps({sender: digest.hex() for sender, digest in state.listing.items()}, sort_keys=True)
        scalars: dict[str, float | int | str] = {
            "listing": listed, "round": state.round, "before": state.before.hex(), "median": state.median
        }  # fmt: skip
        return Packed({"model": state.model.blob, "sketches": state.sketches.blob}, scalars)

    def unpack(self, packed: Packed) -> State:
        """Inverse of `pack`."""
        scalars = packed.scalars
        listed = {sender: bytes.fromhex(digest) for sender, digest in json.loads(str(scalars["listing"])).items()}
        before = bytes.fromhex(str(scalars["before"]))
        return State(
            Vector(packed.blobs["model"]), Vector(packed.blobs["sketches"]), listed,
            int(scalars["round"]), before, float(scalars["median"]),
        )  # fmt: skip

    def _longest(self, update: Update) -> float:
        """Euclidean length of the head's longest column."""
        squares = update.head.whole().reshape(self._shape).astype(np.float64) ** 2
        return float(np.sqrt(np.add.reduce(squares, axis=0).max()))

    def _drawn(self, number: int, listed: list[Weighted[Update]]) -> list[Weighted[Update]]:
        """As many as an order lists, each equally likely, in node order."""
        limit = self._settings.listing_limit
        if len(listed) <= limit:
            return listed
        drawn = stream(self._seed, "bristle", "listing", number).permutation(len(listed))[:limit]
        return [listed[place] for place in sorted(drawn.tolist())]


def server_side(settings: Settings, schema: Schema, seed: int) -> BristleServer:
    """The server half."""
    return BristleServer(settings, schema, seed)
