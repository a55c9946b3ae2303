"""The file `model.vote`: a network whose weights a seed draws, as one bit per weight, and as the graph without weights.

    8 bytes      "EDGEVOTE"
    4 bytes      length of the header, little-endian
    header       JSON (`Header`)
    graph        the ONNX graph without its weights, deflated, `graph_bytes` long
    used         one bit per weight of all layers, lowest first, filled up to a whole byte: 1 where the weight is not 0
                 with `errors_bytes`: a threshold for each output of each layer (float32), then the same bits, deflated, but 1
                 where the guess of `vote_guess` is wrong
    turned       with `turns`: one bit per used weight: 1 where its sign is not the drawn one

What a seed draws is the method's to say (`edgehold.defenses.<method>.vote`).
"""

import zlib
from collections.abc import Callable, Iterator
from math import prod
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from edgehold.core import vote_guess
from edgehold.core.errors import ModelRefused
from edgehold.core.onnx_splice import spliced
from edgehold.core.vectors import FloatArray, Schema
from edgehold.core.vote_guess import Bits

MAGIC = b"EDGEVOTE"
HEADER_LIMIT = 1 << 20
GRAPH_LIMIT = 1 << 26
"""Bytes of a graph without weights, inflated; nobody's is near it."""
WEIGHTS_LIMIT = 1 << 29


class Layer(msgspec.Struct, frozen=True, array_like=True):
    """One tensor. left: weights that pruning left in it, by which some methods scale."""

    name: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=1)], ...]
    left: Annotated[int, msgspec.Meta(ge=0)]

    @property
    def edges(self) -> int:
        """Number of weights."""
        return prod(self.shape)


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """method: whose drawing it is; seed: of the run; layers: in the order of the flat model. errors_bytes: 0 where the weights
    that are used are not guessed.
    """

    method: str
    seed: int
    layers: tuple[Layer, ...]
    turns: bool
    graph_bytes: Annotated[int, msgspec.Meta(ge=1, le=GRAPH_LIMIT)]
    errors_bytes: Annotated[int, msgspec.Meta(ge=0, le=WEIGHTS_LIMIT)] = 0


Draw = Callable[[int, int, Layer], FloatArray]
"""(seed, number of the layer from 0, layer) -> weights before anything is switched off or turned, (edges,) float32, none 0."""


class Vote(NamedTuple):
    """header; graph: inflated; used: (n,); turned: one per used weight, or None."""

    header: Header
    graph: bytes
    used: Bits
    turned: Bits | None

    def weights(self, draw: Draw) -> FloatArray:
        """The dense weights, (n,) float32."""
        parts, start, turn = [], 0, 0
        for number, layer in enumerate(self.header.layers):
            used = self.used[start : start + layer.edges]
            values = np.where(used, draw(self.header.seed, number, layer), np.float32(0))
            if self.turned is not None:
                places = np.flatnonzero(used)
                values[places[self.turned[turn : turn + len(places)]]] *= np.float32(-1)
                turn += len(places)
            parts.append(values)
            start += layer.edges
        return np.concatenate(parts)

    def onnx(self, draw: Draw) -> bytes:
        """The graph with its weights."""
        flat = self.weights(draw)

        def tensors() -> Iterator[tuple[str, tuple[int, ...], FloatArray]]:
            start = 0
            for layer in self.header.layers:
                yield layer.name, layer.shape, flat[start : start + layer.edges]
                start += layer.edges

        return spliced(self.graph, tensors())


def of(
    method: str, seed: int, schema: Schema, left: tuple[int, ...], weights: FloatArray, graph: bytes, draw: Draw
) -> Vote:  # fmt: skip
    """The vote behind dense weights; `ModelRefused` where they are not what the seed draws, switched off or turned.

    left: weights that pruning left in each layer; graph: without weights.
    """
    layers = tuple(Layer(tensor.name, tensor.shape, count) for tensor, count in zip(schema.tensors, left, strict=True))
    used = weights != 0
    drawn = np.concatenate([draw(seed, number, layer) for number, layer in enumerate(layers)])
    turned = np.signbit(weights[used]) != np.signbit(drawn[used])
    vote = Vote(Header(method, seed, layers, bool(turned.any()), 1), graph, used, turned if turned.any() else None)
    if vote.weights(draw).tobytes() != np.ascontiguousarray(weights, dtype="<f4").tobytes():
        raise ModelRefused(f"these weights are not those that seed {seed} draws for {method}; hand the model over as onnx")
    return vote


def encode(vote: Vote, draw: Draw) -> bytes:
    """The file; which weights are used is guessed where that is shorter."""
    graph = zlib.compress(vote.graph, 9)
    used, errors_bytes = _packed(vote.used), 0
    drawn = _drawn(vote.header, draw)
    levels = vote_guess.thresholds(drawn, vote.used)
    errors = zlib.compress(_packed(vote.used != vote_guess.guessed(drawn, levels)), 9)
    if 4 * len(levels) + len(errors) < len(used):
        used, errors_bytes = levels.astype("<f4").tobytes() + errors, len(errors)
    header = msgspec.json.encode(msgspec.structs.replace(vote.header, graph_bytes=len(graph), errors_bytes=errors_bytes))
    turned = b"" if vote.turned is None else _packed(vote.turned)
    return b"".join([MAGIC, len(header).to_bytes(4, "little"), header, graph, used, turned])


def decode(data: bytes, draw_of: Callable[[str], Draw]) -> Vote:
    """Inverse of `encode`; `ModelRefused` says what does not fit. draw_of: how the method of that name draws."""
    length = int.from_bytes(data[8:12], "little")
    if data[:8] != MAGIC or not 2 <= length <= min(HEADER_LIMIT, len(data) - 12):
        raise ModelRefused(f"no vote file: {len(data)} bytes that start with {data[:8]!r}; {MAGIC!r} and a header are expected")
    try:
        header = msgspec.json.decode(data[12 : 12 + length], type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelRefused(f"vote file: its header does not parse: {error}") from None
    at = 12 + length
    graph = _inflated(data[at : at + header.graph_bytes], GRAPH_LIMIT, "graph")
    at += header.graph_bytes
    count = sum(layer.edges for layer in header.layers)
    if not 0 < count <= WEIGHTS_LIMIT:
        raise ModelRefused(f"vote file: {count} weights; allowed: 1 to {WEIGHTS_LIMIT}")
    if header.errors_bytes:
        used, at = _guessed(data, at, header, _drawn(header, draw_of(header.method)))
    else:
        used, at = _bits(data, at, count, "used")
    turned = None
    if header.turns:
        turned, at = _bits(data, at, int(used.sum()), "turned")
    if at != len(data):
        raise ModelRefused(f"vote file: {len(data)} bytes; its header describes {at}")
    return Vote(header, graph, used, turned)


def _drawn(header: Header, draw: Draw) -> list[FloatArray]:
    layers = enumerate(header.layers)
    return [draw(header.seed, number, layer).reshape(layer.shape[0] if layer.shape else 1, -1) for number, layer in layers]


def _guessed(data: bytes, at: int, header: Header, drawn: list[FloatArray]) -> tuple[Bits, int]:
    ends = at + 4 * vote_guess.rows(drawn)
    if ends + header.errors_bytes > len(data):
        raise ModelRefused(f"vote file: {len(data)} bytes; thresholds and errors need {ends + header.errors_bytes}")
    levels = np.frombuffer(data[at:ends], dtype="<f4")
    count = sum(layer.edges for layer in header.layers)
    errors = _inflated(data[ends : ends + header.errors_bytes], -(-count // 8), "list of errors")
    wrong, _ = _bits(errors, 0, count, "errors")
    return vote_guess.guessed(drawn, levels) ^ wrong, ends + header.errors_bytes


def _inflated(data: bytes, limit: int, what: str) -> bytes:
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(data, limit + 1)
    except zlib.error as error:
        raise ModelRefused(f"vote file: its {what} is damaged: {error}") from None
    if not inflate.eof or len(found) > limit or inflate.unused_data:
        raise ModelRefused(f"vote file: its {what} is cut short, or inflates to more than {limit} bytes")
    return found


def _packed(bits: Bits) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


def _bits(data: bytes, at: int, count: int, what: str) -> tuple[Bits, int]:
    end = at + -(-count // 8)
    if end > len(data):
        raise ModelRefused(f"vote file: {len(data)} bytes; the bits {what!r} need {end}")
    each = np.unpackbits(np.frombuffer(data[at:end], dtype=np.uint8), bitorder="little")
    if each[count:].any():
        raise ModelRefused(f"vote file: bits that fill up the last byte of {what!r} are not zero")
    return each[:count].view(np.bool_), end
