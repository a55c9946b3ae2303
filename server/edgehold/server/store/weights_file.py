"""Model files: safetensors, float32, written and read as one header and one flat run of bytes.

A blob of the store already is the flat run, so a model of any size is handed out without being loaded.
"""

import json
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Schema, Tensor, blocks
from edgehold.server.store.blobs import BlobStore, FileBlob, file_blob

_HEADER_LIMIT = 16 << 20


class _Entry(msgspec.Struct, frozen=True):
    """One tensor in the header of a safetensors file."""

    dtype: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    data_offsets: tuple[int, int]


def header(schema: Schema, metadata: dict[str, str]) -> bytes:
    """The bytes that stand before the flat weights in a safetensors file."""
    entries: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for tensor in schema.tensors:
        entries[tensor.name] = {
            "dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, start + 4 * tensor.size]
        }  # fmt: skip
        start += 4 * tensor.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read(path: Path, store: BlobStore) -> tuple[Schema, FileBlob]:
    """Schema and stored weights of a safetensors file; `ConfigError` says what does not fit."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
            raise ConfigError(f"{path.name}: not a safetensors file (header length {length}, file size {size})")
        try:
            parts = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
            parts.pop("__metadata__", None)
            entries = {name: msgspec.json.decode(part, type=_Entry) for name, part in parts.items()}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ConfigError(f"{path.name}: not a safetensors file (its header does not parse)") from None
        if kinds := {entry.dtype for entry in entries.values()} - {"F32"}:
            raise ConfigError(f"{path.name}: tensors of type {', '.join(sorted(kinds))}; save the weights as float32")
        ordered = sorted(entries.items(), key=lambda item: item[1].data_offsets)
        schema = Schema(tuple(Tensor(name, entry.shape) for name, entry in ordered))
        start = 0
        for tensor, (_, entry) in zip(schema.tensors, ordered, strict=True):
            if entry.data_offsets != (start, start + 4 * tensor.size):
                raise ConfigError(f"{path.name}: tensor {tensor.name} lies at {entry.data_offsets}, expected {start}")
            start += 4 * tensor.size
        if 8 + length + start != size or not schema.size:
            raise ConfigError(f"{path.name}: {size} bytes; its header describes {8 + length + start}")
        sink = store.sink(schema.size)
        for first, stop in blocks(schema.size):
            values = np.frombuffer(file.read(4 * (stop - first)), dtype="<f4")
            if not np.isfinite(values).all():
                raise ConfigError(f"{path.name}: the initial weights contain NaN or infinity")
            sink.write(values)
    return schema, file_blob(sink.finish().blob)
