"""What a seed draws for HideNseek, for whoever has only a vote file: the same as on the server."""

from math import prod, sqrt

import numpy as np

from edgehold.core.errors import ModelRefused
from edgehold.core.vectors import FloatArray, Schema
from edgehold.core.vote_file import Layer
from edgehold.defenses.hidenseek.packing import read
from edgehold.defenses.hidenseek.state import Settings, State, drawn, kept_weights
from edgehold.defenses.layers import layers_of


def draw(seed: int, number: int, layer: Layer) -> FloatArray:
    """(edges,) float32: drawn / sqrt(share of the layer that pruning left), as `weights_of`; for an empty layer anything."""
    if layer.left > layer.edges:
        raise ModelRefused(f"vote file: {layer.left} weights left of the {layer.edges} of {layer.name}")
    share = max(1, layer.left) / layer.edges
    return np.asarray(drawn(seed, number, layer.edges, prod(layer.shape[1:])) / np.float32(sqrt(share)))


def left(state: State, settings: Settings, schema: Schema) -> tuple[int, ...]:
    """Weights that pruning left in each layer: with `values = "mask"` more than the network uses."""
    mask, _ = read(state.model.blob, schema.size, kept_weights(settings.keep, schema), state.voters)
    return tuple(int(mask[layer.place].sum()) for layer in layers_of(schema, "HideNseek"))
