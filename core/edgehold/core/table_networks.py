"""What models of tables look like as graphs: detectors, linear models, heads behind a frozen network."""

from collections.abc import Callable, Mapping

import numpy as np

from edgehold.core import onnx_graphs
from edgehold.core.anomaly import NEVER, Detector, metrics
from edgehold.core.errors import ConfigError
from edgehold.core.network import Network
from edgehold.core.tables import Records
from edgehold.core.vectors import Array, FloatArray, Schema

Score = Callable[[FloatArray, Records], Mapping[str, float]]


def detector(
    schema: Schema, test: Records | None, columns: tuple[str, ...], weights: FloatArray, graph: bytes | None = None
) -> Network:  # fmt: skip
    """A model of `edgehold.core.anomaly`; `ConfigError` while it has no threshold."""
    found = Detector.of(schema, weights)
    if found.threshold >= NEVER:
        raise ConfigError(
            "this detector has no threshold yet; export a round after standardise_rounds + subspace_rounds", field="round"
        )

    def judge(outputs: Array) -> Mapping[str, float]:
        assert test is not None
        return metrics(np.asarray(outputs, np.float64), test.y[: len(outputs)] == 1, found.threshold)

    records = np.zeros((0, len(found.mean))) if test is None else np.asarray(test.x, dtype=np.float64)
    return Network(
        graph or onnx_graphs.detector(found),
        records,
        found.scores,
        judge if test is not None else None,
        (),
        columns,
        found.threshold,
    )


def linear(test: Records, weights: FloatArray, graph: bytes | None = None) -> Network:
    """x' w over the columns of `test`, the last of which is 1: float64 as the method computes; a score above 0 is class 1."""
    wide = weights.astype(np.float64)[:, None]
    if graph is None:
        build = onnx_graphs.Builder()
        build.node("MatMul", onnx_graphs.INPUT, build.constant("weights", wide))
        graph = build.finish(np.float64, (len(weights),), np.float64, (1,))

    def judge(outputs: Array) -> Mapping[str, float]:
        scores, y = outputs[:, 0], test.y[: len(outputs)]
        if test.classes:
            return {"accuracy": float(((scores > 0) == (y == 1)).mean())}
        return {"loss": float(np.square(scores - y).mean())}

    return Network(graph, np.asarray(test.x, np.float64), lambda x: x @ wide, judge, test.classes, test.features)


def head(graph: bytes, raw: Array, features: Callable[[Array], FloatArray], test: Records, weights: FloatArray) -> Network:
    """Scores x -> features(x) H. graph: the whole of it; raw: the test records before the frozen network; weights: H, flat."""
    matrix = weights.reshape(-1, len(test.classes))

    def judge(outputs: Array) -> Mapping[str, float]:
        return {"accuracy": float((np.argmax(outputs, axis=1) == test.y[: len(outputs)]).mean())}

    return Network(graph, raw, lambda x: features(x) @ matrix, judge, test.classes)
