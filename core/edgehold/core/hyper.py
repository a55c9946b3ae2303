"""How a hypernetwork's numbers start and what they generate, in NumPy: for the server, which loads no training library."""

from collections.abc import Iterator
from math import prod, sqrt

import numpy as np

from edgehold.core.errors import WrongShape
from edgehold.core.hyper_layout import Layout, Outlet
from edgehold.core.rng import stream
from edgehold.core.vectors import Array, FloatArray, Vector

_ROWS = 1 << 18
"""Numbers of W that are read at once."""


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
        phi[bias : bias + tensor.size] = model[outlet.place : outlet.place + tensor.size]
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
        yield from _poured(outlet, phi, z)


def dense(layout: Layout, phi: Vector, v: Array, rest: Vector) -> Iterator[Array]:
    """The whole model in the order of the schema, block by block. rest: frozen tensors, then the head, in one vector."""
    z, at = code(layout, phi, v), 0
    found: dict[int, tuple[Outlet | None, int]] = {outlet.place: (outlet, 0) for outlet in layout.outlets}
    found |= {place.start: (None, place.stop - place.start) for place in layout.places}
    for _, (outlet, size) in sorted(found.items()):
        if outlet is not None:
            yield from _poured(outlet, phi, z)
        else:
            yield rest.read(at, at + size)
        at += size


def _poured(outlet: Outlet, phi: Vector, z: Array) -> Iterator[Array]:
    *weights, (bias, _) = outlet.parts
    inner, at, width = z, weights[0][0], outlet.hidden
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
