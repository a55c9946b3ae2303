"""Model files: safetensors, float32, written and read as one header and one flat run of bytes.

A blob of the store already is the flat run, so a model of any size is handed out without being loaded.
"""

import json
from pathlib import Path

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Schema, Tensor, Vector, blocks
from edgehold.server.blobs import BlobStore, FileBlob

_HEADER_LIMIT = 16 << 20


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
            entries = json.loads(file.read(length))
            entries.pop("__metadata__", None)
            tensors = sorted(entries.items(), key=lambda item: item[1]["data_offsets"][0])
            schema = Schema(tuple(Tensor(name, tuple(entry["shape"])) for name, entry in tensors))
            kinds = {entry["dtype"] for _, entry in tensors}
            offsets = [tuple(entry["data_offsets"]) for _, entry in tensors]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(f"{path.name}: not a safetensors file (its header does not parse)") from None
        if kinds - {"F32"}:
            raise ConfigError(f"{path.name}: tensors of type {', '.join(sorted(kinds))}; save the weights as float32")
        start = 0
        for tensor, found in zip(schema.tensors, offsets, strict=True):
            if found != (start, start + 4 * tensor.size):
                raise ConfigError(f"{path.name}: tensor {tensor.name} lies at {found}, expected {start}")
            start += 4 * tensor.size
        if 8 + length + start != size or not schema.size:
            raise ConfigError(f"{path.name}: {size} bytes; its header describes {8 + length + start}")
        sink = store.sink(schema.size)
        for first, stop in blocks(schema.size):
            values = np.frombuffer(file.read(4 * (stop - first)), dtype="<f4")
            if not np.isfinite(values).all():
                raise ConfigError(f"{path.name}: the initial weights contain NaN or infinity")
            sink.write(values)
    return schema, _file_blob(sink.finish())


def _file_blob(vector: Vector) -> FileBlob:
    assert isinstance(vector.blob, FileBlob)
    return vector.blob
