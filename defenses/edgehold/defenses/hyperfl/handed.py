"""The file `model.phi`: a trained hypernetwork, from which each device makes a model of its own with what it keeps to itself.

8 bytes      "EDGEHYPR"
4 bytes      length of the header, little-endian
header       JSON (`Header`)
graph        the ONNX graph without what is generated and without the head, deflated; 0 bytes where it could not be made
phi          float32, little-endian
"""

import zlib
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from edgehold.core.errors import ConfigError, ModelRefused
from edgehold.core.hyper import code, generated
from edgehold.core.hyper_layout import Layout
from edgehold.core.onnx_splice import spliced
from edgehold.core.vectors import FloatArray, Schema, Tensor, Vector
from edgehold.defenses.hyperfl.state import Local

MAGIC = b"EDGEHYPR"
GRAPH_LIMIT = 1 << 30
_HEADER_LIMIT = 1 << 20

Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """seed: of the run, under which a backbone's weights are made; tensors: of the dense model, in order; the others as in the
    plan.
    """

    seed: int
    embedding: Size
    hidden: Size
    rank: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]
    backbone: str
    tensors: tuple[tuple[str, tuple[Size, ...]], ...]
    graph_bytes: Annotated[int, msgspec.Meta(ge=0, le=GRAPH_LIMIT)]

    def schema(self) -> Schema:
        """Of the dense model."""
        return Schema(tuple(Tensor(name, shape) for name, shape in self.tensors))

    def layout(self) -> Layout:
        """Of phi; `ModelRefused` where there is none."""
        try:
            return Layout.of(self.schema(), self.embedding, self.hidden, self.rank, self.backbone)
        except ConfigError as error:
            raise ModelRefused(f"hypernetwork: {error.message}") from None


class Handed(NamedTuple):
    """header; graph: inflated, or empty; phi: (layout.size,) float32."""

    header: Header
    graph: bytes
    phi: FloatArray

    def dense(self, local: Local, start: FloatArray) -> FloatArray:
        """The device's own model, (schema.size,) float32. start: weights whose frozen part is the backbone's.

        `ModelRefused` when what the device keeps belongs to another hypernetwork.
        """
        layout, weights = self.header.layout(), np.array(start, dtype=np.float32)
        kept = (len(local.v), len(local.head))
        if kept != (layout.embedding, layout.head_size) or len(weights) != self.header.schema().size:
            raise ModelRefused(
                f"this device keeps an embedding of {kept[0]} and a head of {kept[1]} numbers, for a model of {len(weights)}; "
                f"the hypernetwork needs {layout.embedding}, {layout.head_size} and {self.header.schema().size}: has the task "
                "changed?"
            )
        phi = Vector.of(self.phi)
        theta = np.concatenate(list(generated(layout, phi, code(layout, phi, local.v)))).astype(np.float32)
        for outlet in layout.outlets:
            weights[outlet.place : outlet.place + outlet.tensor.size], theta = np.split(theta, [outlet.tensor.size])
        for place in layout.places[len(layout.frozen) :]:
            weights[place] = local.head[: place.stop - place.start]
            local = Local(local.v, local.head[place.stop - place.start :])
        return weights

    def onnx(self, weights: FloatArray) -> bytes | None:
        """The graph with these weights; None where it did not come along."""
        if not self.graph:
            return None
        parts, frozen = self.header.schema().unflatten(weights), {one.name for one in self.header.layout().frozen}
        tensors = ((one.name, one.shape, parts[one.name]) for one in self.header.schema().tensors if one.name not in frozen)
        return spliced(self.graph, tensors)


def own_tensors(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what differs from device to device."""
    return {one.name: one.shape for one in (*(outlet.tensor for outlet in layout.outlets), *layout.head)}


def encode(handed: Handed) -> bytes:
    """The file."""
    graph = zlib.compress(handed.graph, 6) if handed.graph else b""
    header = msgspec.json.encode(msgspec.structs.replace(handed.header, graph_bytes=len(graph)))
    phi = np.ascontiguousarray(handed.phi, dtype="<f4").tobytes()
    return b"".join([MAGIC, len(header).to_bytes(4, "little"), header, graph, phi])


def decode(data: bytes) -> Handed:
    """Inverse of `encode`; `ModelRefused` says what does not fit."""
    length = int.from_bytes(data[8:12], "little")
    if data[:8] != MAGIC or not 2 <= length <= min(_HEADER_LIMIT, len(data) - 12):
        raise ModelRefused(f"no hypernetwork: {len(data)} bytes that start with {data[:8]!r}; expected {MAGIC!r} and a header")
    try:
        header = msgspec.json.decode(data[12 : 12 + length], type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelRefused(f"hypernetwork: its header does not parse: {error}") from None
    at = 12 + length + header.graph_bytes
    needed = at + 4 * header.layout().size
    if len(data) != needed:
        raise ModelRefused(f"hypernetwork: {len(data)} bytes; its header describes {needed}")
    graph = b""
    if header.graph_bytes:
        inflate = zlib.decompressobj()
        try:
            graph = inflate.decompress(data[12 + length : at], GRAPH_LIMIT)
        except zlib.error as error:
            raise ModelRefused(f"hypernetwork: its graph is damaged: {error}") from None
        if not inflate.eof:
            raise ModelRefused(f"hypernetwork: its graph is cut short, or inflates to more than {GRAPH_LIMIT} bytes")
    return Handed(header, graph, np.frombuffer(data, dtype="<f4", offset=at))
