"""What a seed draws for FRL, for whoever has only a vote file: the same as on the server."""

from math import prod

from edgehold.core.vectors import FloatArray, Schema
from edgehold.core.vote_file import Layer
from edgehold.defenses.frl.state import Settings, State, weights_of


def draw(seed: int, number: int, layer: Layer) -> FloatArray:
    """(edges,) float32: +-sqrt(2 / fan_in)."""
    return weights_of(seed, number, layer.edges, prod(layer.shape[1:]))


def left(state: State, settings: Settings, schema: Schema) -> tuple[int, ...]:
    """Weights by which a layer is scaled: all of them."""
    return tuple(tensor.size for tensor in schema.tensors)
