"""Sign votes as whole numbers that can be summed under masks: 1 where a weight keeps its sign, 0 where it turns."""

from collections.abc import Iterator

import numpy as np

from edgehold.core.errors import WrongShape
from edgehold.core.masks import laws
from edgehold.core.masks.terms import Terms
from edgehold.core.vectors import BLOCK, Array, Schema, blocks
from edgehold.defenses.hidenseek.packing import unpack_bits
from edgehold.defenses.hidenseek.state import Settings, Update, kept_weights
from edgehold.defenses.packing import packed_bytes


class SignForm:
    """One entry per weight that pruning left."""

    largest = 1

    def __init__(self, entries: int) -> None:
        self.entries = entries

    def vector(self, update: Update) -> Iterator[Array]:
        """0 and 1 as int64; `WrongShape` where the update has votes on more or fewer weights, to the byte."""
        if update.bits.size != packed_bytes(self.entries, 1):
            raise WrongShape(f"signs of {update.bits.size} bytes; {self.entries} entries need {packed_bytes(self.entries, 1)}")
        signs = unpack_bits(update.bits.blob, 0, self.entries, "signs")
        for start, stop in blocks(self.entries, BLOCK):
            yield signs[start:stop].astype(np.int64)

    def law(self, sums: Iterator[Array], survivors: int) -> None:
        """No entry above the number of voters."""
        laws.bounded(sums, survivors, self.largest)


def entries(settings: Settings, schema: Schema) -> int:
    """The weights that pruning leaves."""
    return kept_weights(settings.keep, schema)


def largest(settings: Settings, schema: Schema) -> int:
    """Bits."""
    return SignForm.largest


def form(schema: Schema, terms: Terms) -> SignForm:
    """`WrongShape` for terms that are not of bits, or of more than the model has weights."""
    if terms.clip or terms.largest != SignForm.largest or terms.entries > schema.size:
        raise WrongShape(
            f"terms of a sum with {terms.entries} entries up to {terms.largest} and a clip of {terms.clip:g}; votes on the "
            f"signs of this model have at most {schema.size} up to 1, and no clip"
        )
    return SignForm(terms.entries)
