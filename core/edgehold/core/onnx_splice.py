"""Weights put into a graph without the `onnx` package: what a small device can do.

A graph is a protobuf message, and two serialized messages one after the other mean both of them merged: lists are joined. So a
weight is added by appending a message that holds nothing but a graph with that one initializer.
Source: protobuf's encoding, "Last One Wins" and embedded messages; field numbers of onnx.proto3 (ModelProto.graph = 7,
GraphProto.initializer = 5, TensorProto.dims = 1, data_type = 2, name = 8, raw_data = 9).
"""

from collections.abc import Iterable, Iterator

import numpy as np

from edgehold.core.errors import ModelRefused
from edgehold.core.vectors import FloatArray

_VARINT, _BYTES, _FLOAT = 0, 2, 1
_FIXED = {1: 8, 5: 4}
"""Kinds of fields of a fixed size, and their bytes."""


def spliced(skeleton: bytes, tensors: Iterable[tuple[str, tuple[int, ...], FloatArray]]) -> bytes:
    """The graph with these float32 weights. tensors: name, shape, values in C order. They must not be in it yet."""
    return b"".join([skeleton, *(_weight(name, shape, values) for name, shape, values in tensors)])


def without(graph: bytes, name: str) -> bytes:
    """The graph without the weight of that name; `ModelRefused` where it has none, or several, or is no graph."""
    kept, found = bytearray(), 0
    for number, kind, whole, inside in _fields(graph):
        if number != 7 or kind != _BYTES:
            kept += whole
            continue
        inner = bytearray()
        for place, _, part, content in _fields(inside):
            if place == 5 and any(one == 8 and text == name.encode() for one, _, _, text in _fields(content)):
                found += 1
            else:
                inner += part
        kept += _sized(7, bytes(inner))
    if found != 1:
        raise ModelRefused(f"a graph with {found} weights called {name!r}; expected one")
    return bytes(kept)


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    """(number, kind, the whole field, its content where it has a length) of each field of a message."""
    at = 0
    while at < len(data):
        start = at
        key, at = _read(data, at)
        kind, content = key & 7, b""
        if kind == _VARINT:
            _, at = _read(data, at)
        elif kind == _BYTES:
            size, at = _read(data, at)
            content, at = data[at : at + size], at + size
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise ModelRefused(f"no graph: a field of kind {kind} at byte {start}")
        if at > len(data):
            raise ModelRefused(f"no graph: cut short at byte {start}")
        yield key >> 3, kind, data[start:at], content


def _read(data: bytes, at: int) -> tuple[int, int]:
    """A varint and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ModelRefused(f"no graph: a number at byte {at} does not end")


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
