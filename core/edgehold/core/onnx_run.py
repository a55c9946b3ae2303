"""Running a graph with onnxruntime on the processor: the only place that knows how a session is set up."""

import importlib
from typing import Any

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.handover import Number, Port
from edgehold.core.vectors import Array

BATCH = 256
"""Records run at once."""
TYPES: dict[str, Number] = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64"}
"""onnxruntime's names of what a graph may take, and NumPy's."""


def session(graph: bytes, where: str, field: str = "model", threads: int = 1) -> Any:
    """An onnxruntime session of its own; `ConfigError` naming `where` when the runtime is missing or cannot run the graph.

    One thread by default: outputs are the same on every run, and a device may be training beside.
    """
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ModuleNotFoundError:
        raise ConfigError(f"{where}: running it needs onnxruntime; install edgehold[device]", field=field) from None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has errors of its own for everything
        raise ConfigError(f"{where}: no network that onnxruntime can run: {error}", field=field) from None


class Graph:
    """A graph with one input and one output, ready to run. shape: of one record, the free axis left out.

    `ConfigError` for a graph of another kind. Nothing is downloaded and no code of the graph's is loaded: operators are
    onnxruntime's own.
    """

    def __init__(self, graph: bytes, where: str) -> None:
        self._session, self.where = session(graph, where), where
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ConfigError(
                f"{where}: takes {[one.name for one in inputs]} and gives {[one.name for one in outputs]}; one input and one "
                "output are expected",
                field="model",
            )
        given, self.output = inputs[0], outputs[0].name
        if given.type not in TYPES:
            raise ConfigError(f"{where}: takes {given.type}; allowed: {', '.join(sorted(TYPES))}", field="model")
        batch, *shape = given.shape
        if isinstance(batch, int) or not all(isinstance(size, int) for size in shape):
            raise ConfigError(
                f"{where}: its input has shape {given.shape}; only the first axis, of the records, is free", field="model"
            )
        self.input, self.dtype, self.shape = given.name, TYPES[given.type], tuple(shape)
        if outputs[0].type not in TYPES:
            raise ConfigError(f"{where}: gives {outputs[0].type}; allowed: {', '.join(sorted(TYPES))}", field="model")
        self.output_dtype = TYPES[outputs[0].type]

    @property
    def takes(self) -> Port:
        """The input as a manifest describes it."""
        return Port(self.input, self.dtype, self.shape)

    def __call__(self, records: Array) -> Array:
        """(n, ...) outputs. records: (n, *shape), or flat rows of as many numbers; `ConfigError` for others."""
        wanted = int(np.prod(self.shape))
        if records.ndim < 1 or len(records) and records[:1].size != wanted:
            raise ConfigError(
                f"{self.where}: takes records of {list(self.shape)}, {wanted} numbers; found {list(records.shape[1:])}, "
                f"{records[:1].size} numbers",
                field="source",
            )
        shaped = records.reshape(len(records), *self.shape).astype(self.dtype, copy=False)
        starts = range(0, max(1, len(shaped)), BATCH)
        return np.concatenate([self._run(shaped[start : start + BATCH]) for start in starts])

    def _run(self, part: Array) -> Array:
        try:
            (found,) = self._session.run(None, {self.input: part})
        except Exception as error:
            raise ConfigError(f"{self.where}: fails on records of {list(part.shape)}: {error}", field="model") from None
        if found.shape[:1] != part.shape[:1]:
            raise ConfigError(f"{self.where}: gives {list(found.shape)} for {len(part)} records; a row of each is expected")
        return np.asarray(found)
