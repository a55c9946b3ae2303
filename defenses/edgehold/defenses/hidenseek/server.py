"""HideNseek on the server: count votes for signs. Two bytes per weight that is left, however many devices vote."""

from collections.abc import Sequence

import numpy as np

from edgehold.core.contract import Cohort, Facts, Packed, Weighted
from edgehold.core.errors import ConfigError
from edgehold.core.masks.combine import ENOUGH, Blend
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.terms import Terms
from edgehold.core.vectors import Array, FloatArray, Schema, Space, Vector, written
from edgehold.defenses.hidenseek.packing import mask_and_counts_bytes, read, unpack_bits, write
from edgehold.defenses.hidenseek.state import (
    Bits,
    Counts,
    Mask,
    Order,
    Settings,
    State,
    Training,
    Update,
    kept_weights,
    signs_of,
    weights_of,
)
from edgehold.defenses.layers import layers_of


class HideNseekServer:
    """settings: the plan's; schema: the model's; seed: training seed of the run. `ConfigError` for a model with anything but
    weights of two or more dimensions.
    """

    def __init__(self, settings: Settings, schema: Schema, seed: int) -> None:
        self._settings, self._schema, self._seed = settings, schema, seed
        self._layers = layers_of(schema, "HideNseek")
        self._kept = kept_weights(settings.keep, schema)
        self._training = Training(**{name: getattr(settings, name) for name in Training.__struct_fields__})

    def start(self, model: Vector) -> State:
        """The pruned network that `initial` made, with nobody's votes. `ConfigError` for any other weights."""
        weights = model.whole()
        mask = weights != 0
        left = int(mask.sum())
        if left != self._kept or weights.tobytes() != weights_of(self._seed, self._layers, mask).tobytes():
            raise ConfigError(
                f"these first weights are no network that HideNseek pruned from seed {self._seed}: {left} of {len(mask)} are "
                f"not 0, and {self._kept} must be; leave model.file out and give the server its own copy of the task",
                field="model.file",
            )
        return self._state(mask, np.zeros(0, dtype=np.uint16), 0)

    def open(self, state: State, cohort: Cohort) -> Order:
        """Mask and votes of the last round; with `between = "majority"` only which side won."""
        mask, counts = self._read(state)
        voters = state.voters
        if voters and self._settings.between == "majority":
            counts, voters = signs_of(counts, voters).astype(np.uint16), 1
        return Order(self._seed, cohort.round, mask, voters, counts, self._training)

    def claim(self, update: Update) -> float:
        """Every vote counts the same."""
        return 1.0

    def close(self, state: State, updates: Sequence[Weighted[Update]], space: Space) -> tuple[State, Facts]:
        """Per weight the number of devices that want its own sign. Claimed weights are ignored: one device, one vote.

        Without a single update the votes before stay.
        """
        if not updates:
            return state, {}
        counts = np.zeros(self._kept, dtype=np.uint16)
        for one in updates:
            counts += unpack_bits(one.update.bits.blob, 0, self._kept, "signs")
        return self._counted(state, counts, len(updates), self._settings.liars, space)

    def fold(self, state: State, groups: Sequence[GroupSum], terms: Terms, blend: Blend, space: Space) -> tuple[State, Facts]:
        """As `close`, by the votes' sums over groups. Fewer than five groups give what `close` gives; of more, the share of
        votes that the groups' median or trimmed mean says, times all voters (`voters_of`).

        The fact `signs_contested` is told of fewer than five groups: there a liar moves as many votes as its group has.
        """
        sizes = sorted((len(group.survivors) for group in groups), reverse=True)
        shares, whole = blend.exact(groups, 0, self._kept)
        counts = voters_of(shares, whole, sum(sizes))
        lies = sum(sizes[: self._settings.liars]) if len(groups) < ENOUGH else 0
        return self._counted(state, counts, sum(sizes), lies, space)

    def _counted(self, state: State, counts: Counts, voters: int, lies: int, space: Space) -> tuple[State, Facts]:
        """lies: votes of liars reckoned with; 0: no fact."""
        mask, before = self._read(state)
        turned = signs_of(counts, voters) != (signs_of(before, state.voters) if state.voters else True)
        facts = {"signs_turned": float(turned.mean())}
        if lies:
            facts["signs_contested"] = float(in_reach(counts, voters, lies).mean())
        return self._state(mask, counts, voters, space), facts

    def weights(self, state: State, space: Space) -> Vector:
        """The fixed weights with the signs (or without those) that the votes say."""
        mask, counts = self._read(state)
        signs = signs_of(counts, state.voters) if state.voters else np.ones(self._kept, dtype=bool)
        fixed = weights_of(self._seed, self._layers, mask)
        return written(voted(fixed, mask, signs, self._settings.values == "mask"), space)

    def pack(self, state: State) -> Packed:
        """Mask and votes, and how many voted."""
        return Packed({"model": state.model.blob}, {"voters": state.voters})

    def unpack(self, packed: Packed) -> State:
        """Inverse of `pack`."""
        return State(Vector(packed.blobs["model"], "u1"), int(packed.scalars["voters"]))

    def _read(self, state: State) -> tuple[Mask, Counts]:
        return read(state.model.blob, self._schema.size, self._kept, state.voters)

    def _state(self, mask: Mask, counts: Counts, voters: int, space: Space | None = None) -> State:
        parts = list(write(mask, counts, voters))
        if space is None:
            return State(Vector.of(np.concatenate(parts)), voters)
        sink = space.sink(mask_and_counts_bytes(self._schema.size, self._kept, voters), "u1")
        for part in parts:
            sink.write(part)
        return State(sink.finish(), voters)


def voted(weights: FloatArray, mask: Mask, signs: Bits, switched: bool) -> FloatArray:
    """Weights whose votes failed turned (or, `switched`, off). weights, mask: (n,); signs: (K,)."""
    out = weights.copy()
    lost = np.flatnonzero(mask)[~signs]
    out[lost] = 0.0 if switched else -out[lost]
    return out


def voters_of(shares: Array, whole: int, voters: int) -> Counts:
    """(K,) how many of so many voters are the shares shares / whole of them: the nearest count, a half counting up, but never
    one on the other side of an even vote.
    """
    wide = shares.astype(object) if 2 * whole * voters >= 1 << 63 else shares
    counts = (2 * wide * voters + whole) // (2 * whole)
    lost = 2 * wide < whole
    counts[lost] = np.minimum(counts[lost], (voters - 1) // 2)
    return counts.astype(np.uint16)


def in_reach(counts: Counts, voters: int, liars: int) -> Bits:
    """Which signs that many liars could turn by voting the other way, (K,) bool."""
    return np.abs(2 * counts.astype(np.int32) - voters) <= 2 * liars


def server_side(settings: Settings, schema: Schema, seed: int) -> HideNseekServer:
    """The server half."""
    return HideNseekServer(settings, schema, seed)
