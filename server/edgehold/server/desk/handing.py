"""`fl-server export`: a committed model as a signed folder for devices that only run it.

Everything heavy happens in the operator's own process: the server streams the method's state and never loads the task's code.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgehold.core import handover, keys, onnx_parity, vote_file
from edgehold.core.about import VERSION
from edgehold.core.contract import Packed
from edgehold.core.errors import ConfigError
from edgehold.core.handing import network_of
from edgehold.core.handover import Bundle, Manifest, Port, Privacy
from edgehold.core.network import Network
from edgehold.core.onnx_run import Graph
from edgehold.core.plan import Plan, parse_plan
from edgehold.core.vectors import Bytes, FloatArray, MemorySpace, Schema
from edgehold.defenses import registry
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.server.config import ServerConfig, load
from edgehold.server.desk.operator import ask
from edgehold.server.rounds.evaluator import load_task


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. number: a round, 0 for the newest; form: "onnx" or "vote"; records: compared with the task."""

    run: str
    number: int = 0
    form: str = "onnx"
    int8: bool = False
    records: int = onnx_parity.RECORDS


@dataclass(frozen=True, slots=True)
class Committed:
    """A committed round. state: what the method's server half keeps; weights: dense, (schema.size,) float32."""

    plan: Plan
    settings: Any
    schema: Schema
    run: pb.RunInfo
    round: pb.RoundInfo
    state: Any
    weights: FloatArray


def export(home: Path, wish: Wish, out: Path | None = None) -> tuple[Path, Bundle]:
    """Write the folder `out` (by default RUN-ROUND) and return it with what it holds; an `FlError` says why it cannot be, and
    nothing is written then.
    """
    config = load(home)
    found = ask(home, lambda stub: fetched(stub, wish))
    folder = out or Path(f"{wish.run}-{found.round.round}")
    if folder.exists():
        raise ConfigError(f"{folder}: exists already; name another folder with --out, or remove it", field="out")
    return folder, _made(home, config, found, wish, folder)


def _made(home: Path, config: ServerConfig, found: Committed, wish: Wish, out: Path) -> Bundle:
    method = str(found.plan.method["name"])
    if wish.form == "vote":
        registry.vote(method)  # refuses other methods before the task is loaded
    entry = config.tasks.get(found.plan.run.task)
    if entry is None:
        raise ConfigError(
            f"{home}: this server has no copy of task {found.plan.run.task!r}, so that nobody knows the network around its "
            f"weights; add [tasks.{found.plan.run.task}] to server.toml",
            field="run.task",
        )
    task = load_task(entry.task, entry.options)
    if task.schema != found.schema:
        raise ConfigError(
            f"{home}: the server's copy of task {found.plan.run.task!r} has another model than run {wish.run!r} was trained "
            "with; give it the options it had then",
            field="run.task",
        )
    network = network_of(task, found.weights)
    if method == "hyperfl":
        return _signed(home, out, *hypernetwork(wish, found, network, described(found, config, network)))
    manifest = described(found, config, network)
    return _signed(home, out, *packed(wish, found, network, manifest))


async def fetched(stub: Stub, wish: Wish) -> Committed:
    """The round's state from the running server."""
    request = pb.GetStateRequest(run=wish.run, round=wish.number)
    first: pb.GetStateResponse | None = None
    data = bytearray()
    async for part in stub.stream("GetState", request, pb.GetStateResponse):
        first = first or part
        data += part.data
    assert first is not None
    plan, settings = parse_plan(first.plan_toml, registry.method)
    schema = Schema.from_json(first.schema_json)
    blobs, at = {}, 0
    for one in first.blobs:
        blobs[one.name] = Bytes(bytes(data[at : at + one.size]))
        at += one.size
    side = registry.server_side(str(plan.method["name"]), settings, schema, plan.run.seed)
    state = side.unpack(Packed(blobs, json.loads(first.scalars_json)))
    weights = np.array(side.weights(state, MemorySpace()).whole(), dtype=np.float32)
    return Committed(plan, settings, schema, first.run, first.round, state, weights)


def described(found: Committed, config: ServerConfig, network: Network) -> Manifest:
    """The manifest, but for what depends on the form."""
    return Manifest(
        version=handover.VERSION,
        federation=config.server.federation,
        signer="server",
        run=found.run.run,
        round=found.round.round,
        run_created_s=found.run.created_unix_s,
        exported_s=round(time.time(), 3),
        software=VERSION,
        task=found.plan.run.task,
        method=str(found.plan.method["name"]),
        plan_sha256=found.run.plan_digest.hex(),
        weights_sha256=hashlib.sha256(np.ascontiguousarray(found.weights, dtype="<f4").tobytes()).hexdigest(),
        kind="network" if network.threshold is None else "detector",
        form="onnx",
        numbers="float32",
        files={},
        classes=network.classes,
        columns=network.columns,
        threshold=network.threshold,
        privacy=spent(found),
    )


def spent(found: Committed) -> Privacy | None:
    """What training cost as the server counts it; None for a method without noise."""
    epsilon = found.round.facts.get("epsilon_worst")
    if epsilon is None:
        return None
    delta = getattr(found.settings, "delta", None)
    return Privacy(_finite(epsilon), delta, "the device counted in most rounds of this run, at the plan's delta")


def _finite(epsilon: float) -> float | None:
    return epsilon if isfinite(epsilon) else None


def packed(wish: Wish, found: Committed, network: Network, manifest: Manifest) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest and files of a network."""
    from edgehold.core import onnx_graphs

    graph, model, form, calibrated = network.onnx, network.onnx, "onnx", 0
    if wish.int8:
        from edgehold.core.onnx_int8 import CALIBRATION, quantised

        if wish.form == "vote":
            raise ConfigError("a vote file holds bits, not numbers: drop --int8 or --format vote", field="int8")
        calibrated = min(CALIBRATION, len(network.records) // 4)
        graph = model = quantised(network.onnx, network.records[len(network.records) - calibrated :])
    elif wish.form == "vote":
        form, model = "vote", voted(found, network.onnx)
        method = registry.vote(manifest.method)
        graph = vote_file.decode(model, lambda name: method.draw).onnx(method.draw)
    parity = onnx_parity.certify(network, graph, wish.records, calibrated, len(model))
    run = Graph(graph, "the exported graph")
    check, shape = onnx_parity.check(network, run, loose=wish.int8)
    opset, ir_version = onnx_graphs.facts(network.onnx)
    made = msgspec.structs.replace(
        manifest, form=form, numbers="int8" if wish.int8 else "float32", opset=opset, ir_version=ir_version,
        input=run.takes, output=Port(run.output, run.output_dtype, shape), check=check,
    )  # fmt: skip
    return made, {made.model: model, handover.PARITY: msgspec.json.format(msgspec.json.encode(parity), indent=1)}


def voted(found: Committed, graph: bytes) -> bytes:
    """The vote file of a round."""
    from edgehold.core.onnx_graphs import skeleton

    method, name = registry.vote(str(found.plan.method["name"])), str(found.plan.method["name"])
    bare = skeleton(graph, {tensor.name: tensor.shape for tensor in found.schema.tensors})
    if bare is None:
        raise ConfigError(
            "PyTorch's exporter has changed weights of this network (folded or turned them), so that they cannot be drawn on "
            "the device; export it as onnx",
            field="format",
        )
    left = method.left(found.state, found.settings, found.schema)
    vote = vote_file.of(name, found.plan.run.seed, found.schema, left, found.weights, bare, method.draw)
    return vote_file.encode(vote, method.draw)


def hypernetwork(
    wish: Wish, found: Committed, network: Network, manifest: Manifest
) -> tuple[Manifest, dict[str, bytes]]:  # fmt: skip
    """phi, and the graph around what it generates: the rest is each device's own, and nobody else ever sees it."""
    from edgehold.core.onnx_graphs import facts, skeleton
    from edgehold.defenses.hyperfl import handed
    from edgehold.defenses.hyperfl.state import layout_of

    if wish.int8:
        raise ConfigError(
            "a hypernetwork is handed over in float32: each device makes its own model of it; drop --int8", field="int8"
        )
    layout, how = layout_of(found.schema, found.settings), found.settings
    bare = skeleton(network.onnx, handed.own_tensors(layout)) or b""
    tensors = tuple((tensor.name, tensor.shape) for tensor in found.schema.tensors)
    header = handed.Header(found.plan.run.seed, how.embedding, how.hidden, how.rank, how.backbone, tensors, 0)
    phi = np.asarray(found.state.phi.model.whole(), dtype=np.float32)
    opset, ir_version = facts(network.onnx)
    made = msgspec.structs.replace(manifest, kind="hypernetwork", form="hypernetwork", opset=opset, ir_version=ir_version)
    return made, {made.model: handed.encode(handed.Handed(header, bare, phi))}


def _signed(home: Path, out: Path, manifest: Manifest, files: dict[str, bytes]) -> Bundle:
    place = home / "identity"
    key = keys.signing_key(keys.load_version(place, ["signing.key"], [])["signing.key"], str(place / "signing.key"))
    return handover.write(out, manifest, files, key)
