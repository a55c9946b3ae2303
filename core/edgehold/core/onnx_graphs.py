"""Graphs written by hand, and what is done to any graph before it is handed over. Needs `onnx` (extra `edgehold[export]`).

Detectors and heads compute in float64 where their NumPy counterparts do, so that a device's score is the server's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgehold.core.anomaly import Detector
from edgehold.core.vectors import Array

OPSET = 20
_IR = 10
"""What onnxruntime reads for some years, and what PyTorch's exporter writes."""
INPUT, SCORES, HEAD = "records", "scores", "head"
"""Names of the input, of the output, and of a head's weights behind a frozen network."""


class Builder:
    """Nodes of a graph in their order. at: name of the value that the last node gave."""

    def __init__(self) -> None:
        self.at = INPUT
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def constant(self, name: str, values: Array) -> str:
        """A weight by name."""
        from onnx import numpy_helper

        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One operator on the last value, unless inputs are named; returns (and moves on to) what it gives."""
        from onnx import helper

        made = f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs) or [self.at], [made], **attributes))
        self.at = made
        return made

    def finish(self, given: Any, shape: Sequence[int], gives: Any, outputs: Sequence[int]) -> bytes:
        """The graph. given, gives: NumPy types of input and output; shape, outputs: of one record and of its outputs."""
        from onnx import checker, helper

        last = self._nodes[-1]
        last.output[0] = SCORES
        ends = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), ["count", *size])
            for name, kind, size in ((INPUT, given, shape), (SCORES, gives, outputs))
        ]
        graph = helper.make_graph(self._nodes, "edgehold", ends[:1], ends[1:], self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR)
        checker.check_model(model)
        return clean(model)


def detector(found: Detector) -> bytes:
    """Raw records (n, d) float64 -> squared distances (n,) float64, as `Detector.scores`."""
    build, x = Builder(), INPUT
    if found.reading.curve == "log":
        one = build.constant("one", np.array(1.0))
        size = build.node("Abs", x)
        logarithm = build.node("Log", build.node("Add", size, one))
        x = build.node("Mul", build.node("Sign", x), logarithm)
    z = build.node("Sub", x, build.constant("mean", found.mean.astype(np.float64)))
    z = build.node("Div", z, build.constant("width", found.width.astype(np.float64)))
    if found.reading.clip:
        low = build.constant("low", np.array(-found.reading.clip))
        z = build.node("Clip", z, low, build.constant("high", np.array(found.reading.clip)))
    inside = build.node("MatMul", z, build.constant("subspace", found.basis))
    axis = build.constant("axis", np.array([1], dtype=np.int64))
    squares = [build.node("ReduceSum", build.node("Mul", one, one), axis, keepdims=0) for one in (z, inside)]
    build.node("Max", build.node("Sub", *squares), build.constant("zero", np.array(0.0)))
    return build.finish(np.float64, (len(found.mean),), np.float64, ())


def random_features(weights: Array, head: Array, shape: Sequence[int]) -> bytes:
    """Records of `shape`, float32 -> max(0, x A) H, (n, classes) float32. weights: A (inputs, d); head: H (d, classes)."""
    build = Builder()
    flat = build.node("Flatten", INPUT, axis=1)
    features = build.node("Relu", build.node("MatMul", flat, build.constant("features", weights.astype(np.float32))))
    build.node("MatMul", features, build.constant(HEAD, head.astype(np.float32)))
    return build.finish(np.float32, shape, np.float32, head.shape[1:])


def behind(backbone: bytes, head: Array) -> bytes:
    """A backbone with a linear head (d, classes) behind its one output, whatever shape its features have."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(backbone)
    graph, features = model.graph, model.graph.output[0].name
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {one.name for one in graph.initializer}
    names = [_free(name, taken) for name in (HEAD, "head_features", SCORES)]
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(head, dtype=np.float32), names[0]))
    graph.node.extend(
        [
            helper.make_node("Flatten", [features], [names[1]], axis=1),
            helper.make_node("MatMul", [names[1], names[0]], [names[2]]),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(names[2], onnx.TensorProto.FLOAT, ["count", head.shape[1]]))
    onnx.checker.check_model(model)
    return clean(model)


def clean(model: Any) -> bytes:
    """The model's bytes without what only its maker needs: traces with paths of the machine, comments, inferred shapes."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    # Functions stand for operators of the exporter's own; a graph that calls one keeps them.
    called = {(node.domain, node.op_type) for node in graph.node}
    if not any((one.domain, one.name) in called for one in model.functions):
        del model.functions[:]
    # Inferred shapes name records that nobody counts, and quantising refuses some of them.
    del graph.value_info[:]
    used = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    kept = [one for one in graph.initializer if one.name in used or any(_inner(node) for node in graph.node)]
    if len(kept) < len(graph.initializer):
        held = [type(one).FromString(one.SerializeToString()) for one in kept]
        del graph.initializer[:]
        graph.initializer.extend(held)
    return bytes(model.SerializeToString(deterministic=True))


def shortened(model: Any) -> None:
    """Short names for everything between input and output, in place: those of a quantised graph are a tenth of a small file.

    A graph with others inside it stays as it is, since those may use any name.
    """
    graph, names = model.graph, dict[str, str]()
    kept = {"", *(one.name for one in (*graph.input, *graph.output))}
    if any(_inner(node) for node in graph.node):
        return

    def short(name: str) -> str:
        return name if name in kept else names.setdefault(name, _free(f"{len(names):x}", kept))

    for node in graph.node:
        node.name = ""
        for values in (node.input, node.output):
            values[:] = [short(name) for name in values]
    for one in graph.initializer:
        one.name = short(one.name)


def facts(graph: bytes) -> tuple[int, int]:
    """(opset, version of the format)."""
    import onnx

    model = onnx.load_from_string(graph)
    return max(one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), int(model.ir_version)


def skeleton(graph: bytes, tensors: Mapping[str, tuple[int, ...]]) -> bytes | None:
    """The graph without the weights of these names and shapes; None where it does not hold all of them as they are."""
    import onnx

    model = onnx.load_from_string(graph)
    held = {one.name: one for one in model.graph.initializer}
    for name, shape in tensors.items():
        one = held.get(name)
        if one is None or tuple(one.dims) != shape or one.data_type != onnx.TensorProto.FLOAT:
            return None
    rest = [one for name, one in held.items() if name not in tensors]
    del model.graph.initializer[:]
    model.graph.initializer.extend(rest)
    return bytes(model.SerializeToString(deterministic=True))


def _inner(node: Any) -> bool:
    """Whether a node has graphs of its own, which may use any weight."""
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
