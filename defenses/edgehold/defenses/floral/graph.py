"""A head over public features as a graph, in float64 as FLORAL computes. Needs `onnx`."""

from collections.abc import Mapping
from math import pi, sqrt

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.network import Network, decided
from edgehold.core.onnx_graphs import INPUT, Builder
from edgehold.core.tables import Records
from edgehold.core.vectors import Array, FloatArray
from edgehold.defenses.floral.features import Features, Fourier, Nystrom


def network(
    features: Features, outputs: int, classes: int, test: Records | None, weights: FloatArray, graph: bytes | None = None
) -> Network:  # fmt: skip
    """Records (n, inputs) float64 -> phi(x) w + b, (n, outputs) float64."""
    flat = np.asarray(weights, dtype=np.float64).reshape(-1, outputs)
    graph = graph or _made(features, flat)
    names = test.classes if test is not None and test.classes else tuple(map(str, range(classes)))
    records = np.zeros((0, features.inputs)) if test is None else np.asarray(test.x, dtype=np.float64)

    def judge(found: Array) -> Mapping[str, float]:
        assert test is not None
        return {"accuracy": float(np.mean(decided(found, names, None) == test.y[: len(found)]))}

    columns = test.features if test is not None else ()
    return Network(
        graph, records, lambda x: features(x) @ flat[:-1] + flat[-1], judge if test is not None else None, names, columns
    )  # fmt: skip


def _made(features: Features, flat: Array) -> bytes:
    """flat: (m + 1, outputs) float64, the last row the bias."""
    build = Builder()
    _featured(build, features)
    scores = build.node("MatMul", build.at, build.constant("head", flat[:-1]))
    build.node("Add", scores, build.constant("bias", flat[-1]))
    return build.finish(np.float64, (features.inputs,), np.float64, (flat.shape[1],))


def _featured(build: Builder, features: Features) -> None:
    if isinstance(features, Fourier):
        omega, u = features.drawn
        turned = build.node("MatMul", INPUT, build.constant("omega", np.ascontiguousarray(omega.T)))
        # onnxruntime has the sine of float64 on the processor, and no cosine.
        build.node("Sin", build.node("Add", turned, build.constant("phase", u + pi / 2)))
        build.node("Mul", build.at, build.constant("scale", np.array(sqrt(2 / features.count))))
        return
    if isinstance(features, Nystrom):
        marks = np.asarray(features.landmarks, dtype=np.float64)
        axis = build.constant("axis", np.array([1], dtype=np.int64))
        lengths = build.node("ReduceSum", build.node("Mul", INPUT, INPUT), axis, keepdims=1)
        inner = build.node("MatMul", INPUT, build.constant("landmarks", np.ascontiguousarray(-2 * marks.T)))
        apart = build.node("Add", build.node("Add", lengths, inner), build.constant("squares", np.square(marks).sum(1)))
        apart = build.node("Max", apart, build.constant("zero", np.array(0.0)))
        near = build.node("Exp", build.node("Mul", apart, build.constant("gamma", np.array(-features.gamma))))
        build.node("MatMul", near, build.constant("root", features.root))
        return
    raise ConfigError(f"features of kind {type(features).__name__} have no graph; use fourier or nystrom", field="features")
