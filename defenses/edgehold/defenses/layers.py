"""The layers of a model whose weights are ranked, signed or masked: one per tensor, and no tensor of one dimension."""

from dataclasses import dataclass
from math import floor, prod

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Schema

EDGES_LIMIT = 1 << 31
"""Edges a layer must have fewer of: edge ids are int32."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One tensor of weights. edges: its values; fan_in: inputs of one output; start: where it lies in the flat model."""

    name: str
    edges: int
    fan_in: int
    start: int

    @property
    def place(self) -> slice:
        """Where it lies in the flat model."""
        return slice(self.start, self.start + self.edges)

    def dropped(self, keep: float) -> int:
        """Edges that a network with this share of its edges does not use: floor((1 - keep) n)."""
        return dropped_edges(self.edges, keep)


def dropped_edges(edges: int, keep: float) -> int:
    """floor((1 - keep) n) of n edges; at least one is kept."""
    return floor((1.0 - keep) * edges)


def layers_of(schema: Schema, method: str) -> tuple[Layer, ...]:
    """The layers of a model, one per tensor; `ConfigError` names a tensor that `method` cannot work with."""
    found, start = [], 0
    for tensor in schema.tensors:
        if len(tensor.shape) < 2:
            raise ConfigError(
                f"tensor {tensor.name} of shape {list(tensor.shape)} cannot be used: {method} takes weights of linear and "
                "convolution layers only; leave out biases and affine normalisation (reference models: net = {bias = false})"
            )
        if not 0 < tensor.size < EDGES_LIMIT:
            raise ConfigError(f"tensor {tensor.name} has {tensor.size} values; allowed: 1 to {EDGES_LIMIT - 1}")
        found.append(Layer(tensor.name, tensor.size, prod(tensor.shape[1:]), start))
        start += tensor.size
    return tuple(found)
