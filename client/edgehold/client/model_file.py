"""Model files as the server writes them (safetensors, float32), read with NumPy alone."""

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import FloatArray, Schema, Tensor

_HEADER_LIMIT = 16 << 20


class _Entry(msgspec.Struct, frozen=True):
    """One tensor in the header."""

    dtype: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    data_offsets: tuple[int, int]


def read(path: Path) -> tuple[Schema, FloatArray, dict[str, str]]:
    """Schema, flat weights and what the server wrote about the model ("edgehold_run", "edgehold_round", ...).

    `ConfigError` says what does not fit.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(_HEADER_LIMIT, len(data) - 8):
        raise ConfigError(f"{path}: not a safetensors file (header length {length}, file size {len(data)})")
    try:
        parts = msgspec.json.decode(data[8 : 8 + length], type=dict[str, msgspec.Raw])
        about = msgspec.json.decode(parts.pop("__metadata__", msgspec.Raw(b"{}")), type=dict[str, str])
        entries = {name: msgspec.json.decode(part, type=_Entry) for name, part in parts.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ConfigError(f"{path}: not a safetensors file (its header does not parse)") from None
    ordered = sorted(entries.items(), key=lambda item: item[1].data_offsets)
    schema, start = Schema(tuple(Tensor(name, entry.shape) for name, entry in ordered)), 0
    for tensor, (_, entry) in zip(schema.tensors, ordered, strict=True):
        if entry.dtype != "F32" or entry.data_offsets != (start, start + 4 * tensor.size):
            raise ConfigError(
                f"{path}: tensor {tensor.name} is {entry.dtype} at {entry.data_offsets}; expected F32 from {start} on"
            )
        start += 4 * tensor.size
    if 8 + length + start != len(data) or not schema.size:
        raise ConfigError(f"{path}: {len(data)} bytes; its header describes {8 + length + start}")
    return schema, np.frombuffer(data, dtype="<f4", offset=8 + length), about
