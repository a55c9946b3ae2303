"""A frozen network in an ONNX file, run by onnxruntime on the processor: records in, features out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.client.data.dataset import Array
from edgehold.client.data.files import digest_of
from edgehold.core import onnx_graphs, onnx_run
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import FloatArray

_BATCH = 256


class Backbone:
    """session: onnxruntime's; where: the file, for messages. Use `open`."""

    def __init__(self, session: Any, where: str) -> None:
        self._session, self._where = session, where
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ConfigError(
                f"{where}: takes {[one.name for one in inputs]} and gives {[one.name for one in outputs]}; a backbone has one "
                "input and one output. Export it without its head",
                field="backbone",
            )
        self._input = inputs[0]
        if self._input.type != "tensor(float)":
            raise ConfigError(f"{where}: input {self._input.name!r} is a {self._input.type}; float32 records are given")
        batch, *self._shape = self._input.shape
        if isinstance(batch, int) or not all(isinstance(size, int) for size in self._shape):
            raise ConfigError(
                f"{where}: input {self._input.name!r} has shape {self._input.shape}; only the first axis, of the "
                "records, is free",
                field="backbone",
            )

    @classmethod
    def open(cls, path: Path, sha256: str = "") -> "Backbone":
        """The network in the file; `ConfigError` when it is missing, another one than `sha256` says, or no ONNX network."""
        try:
            data = path.expanduser().read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}", field="backbone") from None
        if sha256 and (found := digest_of(data)) != f"sha256:{sha256.removeprefix('sha256:')}":
            raise ConfigError(
                f"{path}: its content is {found}, expected sha256:{sha256.removeprefix('sha256:')}. Every device must have the "
                "same backbone: get it again",
                field="sha256",
            )
        return cls(onnx_run.session(data, str(path), "backbone"), str(path))

    def __call__(self, records: Array) -> FloatArray:
        """(n, d) float32. records: (n, ...) of the network's input shape, or flat with as many numbers."""
        wanted = int(np.prod(self._shape))
        if records[:1].size not in (0, wanted):
            raise ConfigError(
                f"{self._where}: input {self._input.name!r} takes records of {self._shape}, {wanted} numbers; this data set's "
                f"have {list(records.shape[1:])}, {records[:1].size}",
                field="backbone",
            )
        shaped = records.reshape(len(records), *self._shape).astype(np.float32, copy=False)
        parts = [self._run(shaped[start : start + _BATCH]) for start in range(0, len(shaped), _BATCH)]
        return np.concatenate(parts)

    def headed(self, head: FloatArray, shape: Sequence[int]) -> bytes:
        """See `edgehold.client.data.frozen.Features`. Read anew: a device that only trains need not keep the file in memory."""
        return onnx_graphs.behind(Path(self._where).expanduser().read_bytes(), head)

    def _run(self, part: Array) -> FloatArray:
        try:
            (found,) = self._session.run(None, {self._input.name: part})
        except Exception as error:
            raise ConfigError(f"{self._where}: fails on records of {list(part.shape)}: {error}", field="backbone") from None
        if found.dtype != np.float32 or found.shape[:1] != part.shape[:1]:
            raise ConfigError(
                f"{self._where}: gives {found.dtype} of {list(found.shape)} for {len(part)} records; float32 features of each "
                "are expected",
                field="backbone",
            )
        return np.asarray(found.reshape(len(part), -1))
