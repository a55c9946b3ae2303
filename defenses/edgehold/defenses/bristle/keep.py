"""A device's local state as bytes: shape, counters and digests, then four arrays of float32."""

import struct

import numpy as np

from edgehold.core.errors import WrongShape
from edgehold.defenses.bristle.state import Local

_HEAD = struct.Struct("<IIQI32s32s")
"""d, C, Adam's steps, round, seen, sent; little-endian."""


def dump(local: Local) -> bytes:
    """The bytes: 84 and 16 d C."""
    head = _HEAD.pack(*local.kept.shape, local.steps, local.round, local.seen, local.sent)
    arrays = (local.kept, local.trained, local.first, local.second)
    return head + b"".join(one.astype("<f4", copy=False).tobytes() for one in arrays)


def load(data: bytes) -> Local:
    """Inverse of `dump`; `WrongShape` for bytes of another length."""
    if len(data) < _HEAD.size:
        raise WrongShape(f"local state of {len(data)} bytes; at least {_HEAD.size} are expected")
    rows, columns, steps, number, seen, sent = _HEAD.unpack(data[: _HEAD.size])
    if len(data) != _HEAD.size + 16 * rows * columns:
        raise WrongShape(
            f"local state of {len(data)} bytes; a head of {rows} x {columns} keeps {_HEAD.size + 16 * rows * columns}"
        )
    kept, trained, first, second = np.frombuffer(data, dtype="<f4", offset=_HEAD.size).reshape(4, rows, columns)
    return Local(kept, trained, first, second, steps, number, seen, sent)
