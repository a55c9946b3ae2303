"""Flat numbers of any size, read block by block.

A `Blob` is bytes somewhere (memory, a file, a sealed spool); a `Vector` reads them as numbers. Rules and methods ask for
ranges, so that a model of hundreds of megabytes from a thousand clients never has to stand in memory at once. Blobs are
never modified.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, prod, sqrt
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from edgehold.core.errors import NotFinite, WrongShape

FloatArray: TypeAlias = NDArray[np.float32]
Array: TypeAlias = NDArray[Any]

BLOCK = 1 << 18
"""Numbers per block where nothing else asks for another size: 1 MiB of float32, which fits a core's cache."""


class Blob(Protocol):
    """Read-only bytes of known size."""

    @property
    def size(self) -> int:
        """Number of bytes."""

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """Bytes start..stop (stop at most `size`)."""


class Filling(Blob, Protocol):
    """A blob whose bytes are made for every read, and can be made where they are wanted."""

    def read_into(self, start: int, stop: int, out: memoryview) -> None:
        """Bytes start..stop to the front of `out`, which is longer by at least `SLACK` bytes; those keep their content."""


SLACK = 16
"""What ciphers may want to see behind their output, though they write nothing there."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """A blob in memory."""

    data: bytes | memoryview

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.data)

    def read(self, start: int, stop: int) -> memoryview:
        """Bytes start..stop, not copied."""
        return memoryview(self.data)[start:stop]

    def __reduce__(self) -> tuple[Any, ...]:
        return Bytes, (bytes(self.data),)  # a view of memory cannot go to another process


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes of another blob from `offset` on."""

    whole: Blob
    offset: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.whole.size - self.offset

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """Bytes start..stop of the part."""
        return self.whole.read(self.offset + start, self.offset + stop)


class Vector:
    """A blob read as little-endian numbers of one type.

    blob: its size must be a whole number of items, else `WrongShape`.
    """

    __slots__ = ("_filling", "_offset", "blob", "dtype", "size")

    def __init__(self, blob: Blob, dtype: str = "<f4") -> None:
        self.blob = blob
        self.dtype = np.dtype(dtype)
        if blob.size % self.dtype.itemsize:
            raise WrongShape(f"{blob.size} bytes are no whole number of {self.dtype.name} values")
        self.size = blob.size // self.dtype.itemsize
        self._offset = 0
        while isinstance(blob, Part):
            self._offset, blob = self._offset + blob.offset, blob.whole
        # Asked for by name: to ask whether a blob keeps a protocol takes longer than to read a small model.
        self._filling = cast(Filling, blob) if hasattr(blob, "read_into") else None

    @classmethod
    def of(cls, values: Array) -> "Vector":
        """The vector over a copy-free view of `values` (any shape, flattened in C order)."""
        flat = np.ascontiguousarray(values).reshape(-1)
        little = flat.astype(flat.dtype.newbyteorder("<"), copy=False)
        return cls(Bytes(little.view(np.uint8).data), little.dtype.str)

    def read(self, start: int, stop: int) -> Array:
        """Values start..stop as a one-dimensional array that must not be written to."""
        item = self.dtype.itemsize
        return np.frombuffer(self.blob.read(start * item, stop * item), dtype=self.dtype)

    @property
    def fills(self) -> bool:
        """Whether reading costs fresh memory that `read_into` spares."""
        return self._filling is not None

    def read_into(self, start: int, stop: int, out: Array) -> Array:
        """Values start..stop: in the front of `out` where the blob fills memory, else as `read`.

        out: contiguous, of this type, longer than what is asked for by at least `SLACK` bytes.
        """
        if self._filling is None:
            return self.read(start, stop)
        lo, hi = (self._offset + at * self.dtype.itemsize for at in (start, stop))
        self._filling.read_into(lo, hi, out.data.cast("B"))
        return out[: stop - start]

    def whole(self) -> Array:
        """All values at once; for sizes known to be small, or on the device that trains on them."""
        return self.read(0, self.size)


class Sink(Protocol):
    """A vector being written, in order, block after block."""

    def write(self, values: Array) -> None:
        """Append values."""

    def finish(self) -> Vector:
        """Close the sink and read it back as a vector."""


class Space(Protocol):
    """Where a method puts new vectors: memory in one process, content-addressed files in the daemon."""

    def sink(self, size: int, dtype: str = "<f4") -> Sink:
        """A sink for exactly `size` values."""


class MemorySpace:
    """Space in memory."""

    def sink(self, size: int, dtype: str = "<f4") -> Sink:
        """A sink for exactly `size` values."""
        return _MemorySink(np.empty(size, dtype=dtype))


@dataclass(slots=True)
class _MemorySink:
    values: Array
    filled: int = 0

    def write(self, values: Array) -> None:
        if self.filled + len(values) > len(self.values):
            raise WrongShape(f"{self.filled + len(values)} values written to a vector of {len(self.values)}")
        self.values[self.filled : self.filled + len(values)] = values
        self.filled += len(values)

    def finish(self) -> Vector:
        if self.filled != len(self.values):
            raise WrongShape(f"{self.filled} of {len(self.values)} values written")
        return Vector.of(self.values)


def written(values: Array, space: Space, dtype: str = "<f4") -> Vector:
    """All of `values` at once as a new vector of that type; for what is whole in memory anyway."""
    sink = space.sink(len(values), dtype)
    sink.write(values.astype(dtype, copy=False))
    return sink.finish()


def blocks(size: int, block: int = BLOCK) -> Iterator[tuple[int, int]]:
    """Ranges that cover 0..size, `block` values at a time."""
    for start in range(0, size, block):
        yield start, min(start + block, size)


def finite_norm(vector: Vector) -> float:
    """Euclidean norm in float64, or `NotFinite` naming the first value that is NaN or infinite.

    Squares are added in one fixed order, not by BLAS: a norm decides how far an update is scaled down, so it must come out
    the same for every number of threads.
    """
    total = 0.0
    wide = np.empty(min(_NORM_BLOCK, vector.size))
    for start, stop in blocks(vector.size, _NORM_BLOCK):
        values = vector.read(start, stop)
        squares = wide[: stop - start]
        with np.errstate(over="ignore", invalid="ignore"):
            squares[:] = values
            partial = float(np.add.reduce(np.multiply(squares, squares, out=squares)))
        # A square of a finite float32 is far from the largest float64: only a bad value makes the sum bad.
        if not isfinite(partial):
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                raise NotFinite(f"value {start + int(bad[0])} is {values[bad[0]]}; every value must be finite")
        total += partial
    return sqrt(total)


_NORM_BLOCK = 1 << 14  # 128 KiB of float64: stays in the second-level cache


@dataclass(frozen=True)
class Tensor:
    """Name and shape of one tensor of a model; all are float32."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)


@dataclass(frozen=True)
class Schema:
    """The tensors of a model in the order in which they lie in its flat vector."""

    tensors: tuple[Tensor, ...]

    @cached_property
    def size(self) -> int:
        """Number of values in all tensors."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of names, types and shapes."""
        return hashlib.sha256(self.to_json().encode()).digest()

    def to_json(self) -> str:
        """Canonical JSON; inverse of `from_json`."""
        return json.dumps([[t.name, "<f4", list(t.shape)] for t in self.tensors], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Schema":
        """Inverse of `to_json`."""
        return cls(tuple(Tensor(name, tuple(shape)) for name, _, shape in json.loads(text)))

    def flatten(self, arrays: Mapping[str, Array]) -> FloatArray:
        """One float32 vector of length `size` from the named arrays; `WrongShape` names what does not fit."""
        if set(arrays) != {t.name for t in self.tensors}:
            raise WrongShape(f"tensors {sorted(arrays)}; the schema has {sorted(t.name for t in self.tensors)}")
        flat = np.empty(self.size, dtype=np.float32)
        start = 0
        for tensor in self.tensors:
            values = arrays[tensor.name]
            if tuple(values.shape) != tensor.shape:
                raise WrongShape(f"tensor {tensor.name} has shape {tuple(values.shape)}; expected {tensor.shape}")
            flat[start : start + tensor.size] = values.reshape(-1)
            start += tensor.size
        return flat

    def unflatten(self, flat: FloatArray) -> dict[str, FloatArray]:
        """Named views into a flat vector of length `size`."""
        if len(flat) != self.size:
            raise WrongShape(f"{len(flat)} values; the schema has {self.size}")
        views, start = {}, 0
        for tensor in self.tensors:
            views[tensor.name] = flat[start : start + tensor.size].reshape(tensor.shape)
            start += tensor.size
        return views
