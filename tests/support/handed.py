"""Models handed over without a federation: keys, tiny graphs, and folders as `fl-server export` writes them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgehold.client.identity import Credentials
from edgehold.core import handover, onnx_graphs, onnx_parity
from edgehold.core.handover import Bundle, Manifest, Port
from edgehold.core.network import Network
from edgehold.core.onnx_run import Graph

FEDERATION, DEVICE = "lab", "device-1"
NOBODY = "0" * 64


@dataclass
class Parties:
    """A server and one device of its federation."""

    server: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    device: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def credentials(self) -> Credentials:
        """The device's; what a connection needs is empty."""
        return Credentials(
            DEVICE, FEDERATION, "", "", b"", b"", b"", self.device, self.server.public_key(), 0.0, 0.0
        )  # fmt: skip


def plain(**changed: Any) -> Manifest:
    """A manifest of a server's model, before files and graph are described."""
    said: dict[str, Any] = {
        "version": 1, "federation": FEDERATION, "signer": "server", "run": "r", "round": 3, "run_created_s": 1000.0,
        "exported_s": 2000.0, "software": "test", "task": "toy", "method": "fedavg", "plan_sha256": NOBODY,
        "weights_sha256": NOBODY, "kind": "network", "form": "onnx", "numbers": "float32", "files": {}, **changed,
    }  # fmt: skip
    return Manifest(**said)


def scaled(factor: float, inputs: int = 2) -> bytes:
    """A graph that gives (factor x, 1) of the first number x of each record: class "low" above "high" where factor x > 1."""
    build = onnx_graphs.Builder()
    matrix, offset = np.zeros((inputs, 2), np.float32), np.array([0, 1], np.float32)
    matrix[0, 0] = factor
    product = build.node("MatMul", onnx_graphs.INPUT, build.constant("matrix", matrix))
    build.node("Add", product, build.constant("offset", offset))
    return build.finish(np.float32, (inputs,), np.float32, (2,))


def described(manifest: Manifest, graph: bytes, off: float = 0.0) -> Manifest:
    """The manifest with ports and check of the graph. off: added to what the check expects."""
    run = Graph(graph, "test")
    network = Network(graph, np.zeros((0, *run.shape), run.dtype), lambda records: records)
    check, shape = onnx_parity.check(network, run)
    outputs = tuple(tuple(value + off for value in row) for row in check.outputs)
    return msgspec.structs.replace(
        manifest, input=run.takes, output=Port(run.output, run.output_dtype, shape),
        check=msgspec.structs.replace(check, outputs=outputs), opset=onnx_graphs.OPSET, ir_version=10,
    )  # fmt: skip


def scored(factor: float) -> bytes:
    """A graph that gives factor (x + y) for each record (x, y): one score."""
    build = onnx_graphs.Builder()
    product = build.node("Mul", onnx_graphs.INPUT, build.constant("factor", np.array(factor, np.float32)))
    build.node("ReduceSum", product, build.constant("axis", np.array([1], np.int64)), keepdims=0)
    return build.finish(np.float32, (2,), np.float32, ())


def bundle(
    folder: Path, key: Ed25519PrivateKey, factor: float = 2.0, off: float = 0.0, graph: bytes | None = None, **changed: Any
) -> Bundle:  # fmt: skip
    """A folder with `scaled(factor)`, or the graph, signed."""
    graph = graph or scaled(factor)
    manifest = described(plain(**{"classes": ("low", "high"), **changed}), graph, off)
    return handover.write(folder, manifest, {"model.onnx": graph, "parity.json": b"{}"}, key)
