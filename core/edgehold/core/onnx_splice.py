"""Weights put into a graph without the `onnx` package: what a small device can do.

A graph is a protobuf message, and two serialized messages one after the other mean both of them merged: lists are joined. So a
weight is added by appending a message that holds nothing but a graph with that one initializer.
Source: protobuf's encoding, "Last One Wins" and embedded messages; field numbers of onnx.proto3 (ModelProto.graph = 7,
GraphProto.initializer = 5, TensorProto.dims = 1, data_type = 2, name = 8, raw_data = 9).
"""

from collections.abc import Iterable

import numpy as np

from edgehold.core.vectors import FloatArray

_VARINT, _BYTES, _FLOAT = 0, 2, 1


def spliced(skeleton: bytes, tensors: Iterable[tuple[str, tuple[int, ...], FloatArray]]) -> bytes:
    """The graph with these float32 weights. tensors: name, shape, values in C order. They must not be in it yet."""
    return b"".join([skeleton, *(_weight(name, shape, values) for name, shape, values in tensors)])


def _weight(name: str, shape: tuple[int, ...], values: FloatArray) -> bytes:
    dims = b"".join(_key(1, _VARINT) + _varint(size) for size in shape)
    head = dims + _key(2, _VARINT) + _varint(_FLOAT) + _sized(8, name.encode())
    raw = np.ascontiguousarray(values, dtype="<f4").tobytes()
    return _sized(7, _sized(5, head + _sized(9, raw)))


def _sized(number: int, data: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(data)) + data


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
