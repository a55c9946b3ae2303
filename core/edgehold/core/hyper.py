"""A hypernetwork's numbers in one flat vector: where each lies, how they start, what they generate. NumPy alone.

h(v; phi): z = relu(W0 v + b0); each tensor of the extractor has an outlet W z + b of its own, reshaped. phi lies flat: W0 by
rows, b0, then outlet after outlet in the order of the schema, W by rows (or A, then B, where W = A B) before b.
Source: Guo et al. 2025, arXiv:2412.07187, and its code. Departure: low-rank outlets.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np

from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.rng import stream
from edgehold.core.vectors import Array, FloatArray, Schema, Tensor, Vector

_ROWS = 1 << 18
"""Numbers of W that are read at once."""


@dataclass(frozen=True, slots=True)
class Outlet:
    """What generates one tensor. start: where it lies in phi; rank: of W = A B, A (size, rank), B (rank, hidden); 0: dense."""

    tensor: Tensor
    hidden: int
    rank: int
    start: int

    @property
    def parts(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """(start in phi, shape) of W and b, or of A, B and b."""
        p, h, r = self.tensor.size, self.hidden, self.rank
        shapes: list[tuple[int, ...]] = [(p, r), (r, h), (p,)] if r else [(p, h), (p,)]
        starts = np.cumsum([self.start, *(prod(shape) for shape in shapes[:-1])])
        return tuple(zip(map(int, starts), shapes, strict=True))

    @property
    def stop(self) -> int:
        """Where the next one begins."""
        start, shape = self.parts[-1]
        return start + prod(shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """embedding, hidden: sizes of v and z; outlets: one per tensor of the extractor; head: tensors that stay on the device."""

    embedding: int
    hidden: int
    outlets: tuple[Outlet, ...]
    head: tuple[Tensor, ...]

    @classmethod
    def of(cls, schema: Schema, embedding: int, hidden: int, rank: int = 0) -> "Layout":
        """The layout for a model: its last layer is the head, everything before it the extractor; `ConfigError` without one.

        rank: of the outlets' weights where that takes fewer numbers; 0: never.
        """
        tensors = schema.tensors
        layer = tensors[-1].name.rpartition(".")[0] if tensors else ""
        at = len(tensors)
        while at and tensors[at - 1].name.rpartition(".")[0] == layer:
            at -= 1
        if not at:
            raise ConfigError(
                f"the model has a single layer ({', '.join(t.name for t in tensors) or 'none'}): nothing is left to generate "
                "beside the head; HyperFL needs a model of two or more layers"
            )
        found, start = [], hidden * embedding + hidden
        for tensor in tensors[:at]:
            smaller = rank and rank * (tensor.size + hidden) < tensor.size * hidden
            found.append(Outlet(tensor, hidden, rank if smaller else 0, start))
            start = found[-1].stop
        return cls(embedding, hidden, tuple(found), tensors[at:])

    @property
    def size(self) -> int:
        """Numbers in phi: embedding x hidden + hidden + P (hidden + 1) where no outlet is low-rank."""
        return self.outlets[-1].stop

    @property
    def extractor_size(self) -> int:
        """P."""
        return sum(outlet.tensor.size for outlet in self.outlets)

    @property
    def head_size(self) -> int:
        """Numbers that stay on the device, beside v."""
        return sum(tensor.size for tensor in self.head)

    @property
    def first(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """(start in phi, shape) of W0 and b0."""
        return (0, (self.hidden, self.embedding)), (self.hidden * self.embedding, (self.hidden,))


def initial(layout: Layout, model: FloatArray, seed: int, spread: float) -> FloatArray:
    """phi before the first round, (layout.size,) float32. model: (schema.size,) the dense weights it starts around.

    Outlets' biases are the model's extractor, so that whoever makes the model (its constructor, a file) decides its scale, for
    norms and embeddings too. Outlets' weights add what differs from device to device: `spread` times N(0, 2 / fan_in), the
    size that keeps activations behind a ReLU, and nothing for tensors of one dimension, which have no fan-in.
    W0 has the variance 1 / (3 embedding) that PyTorch gives it, hence E|z|^2 = hidden / 6: a step of size lr on phi moves
    theta by lr (1 + |z|^2), and with a W0 of He's size, six times larger, the usual rates blow up.
    """
    phi = np.zeros(layout.size, dtype=np.float32)
    count = layout.hidden * layout.embedding
    phi[:count] = stream(seed, "hyperfl", "first").standard_normal(count, dtype=np.float32) / sqrt(3 * layout.embedding)
    at = 0
    for number, outlet in enumerate(layout.outlets):
        tensor, rng = outlet.tensor, stream(seed, "hyperfl", "outlet", number)
        wide = len(tensor.shape) > 1
        scale = spread * sqrt(2 / prod(tensor.shape[1:])) if wide else 0.0
        *weights, (bias, _) = outlet.parts
        # Of A B only A carries the scale: were both 0 for tensors of one dimension, neither would ever get a gradient.
        scales = [scale / sqrt(outlet.rank), sqrt(6 / layout.hidden)] if outlet.rank else [scale * sqrt(6 / layout.hidden)]
        for (start, shape), one in zip(weights, scales, strict=True):
            drawn = rng.standard_normal(prod(shape), dtype=np.float32)
            phi[start : start + prod(shape)] = drawn * np.float32(one)
        phi[bias : bias + tensor.size] = model[at : at + tensor.size]
        at += tensor.size
    return phi


def code(layout: Layout, phi: Vector, v: Array) -> Array:
    """z = relu(W0 v + b0), (hidden,) float64."""
    if phi.size != layout.size or len(v) != layout.embedding:
        raise WrongShape(
            f"{phi.size} numbers of a hypernetwork, an embedding of {len(v)}; {layout.size} and {layout.embedding} are needed"
        )
    weight, bias = (phi.read(start, start + prod(shape)).reshape(shape).astype(np.float64) for start, shape in layout.first)
    return np.maximum(_times(weight, np.asarray(v, np.float64)) + bias, 0.0)


def generated(layout: Layout, phi: Vector, z: Array) -> Iterator[Array]:
    """theta block by block, float64. Sums run in one fixed order, not by BLAS: equal on every number of threads."""
    for outlet in layout.outlets:
        *weights, (bias, _) = outlet.parts
        inner, at, width = z, weights[0][0], layout.hidden
        if outlet.rank:
            start, shape = weights[1]
            inner = _times(phi.read(start, start + prod(shape)).reshape(shape).astype(np.float64), z)
            width = outlet.rank
        step = max(1, _ROWS // width)
        for low in range(0, outlet.tensor.size, step):
            high = min(low + step, outlet.tensor.size)
            rows = phi.read(at + low * width, at + high * width).reshape(-1, width).astype(np.float64)
            yield _times(rows, inner) + phi.read(bias + low, bias + high)


def _times(matrix: Array, vector: Array) -> Array:
    return np.asarray(np.add.reduce(matrix * vector, axis=1))
