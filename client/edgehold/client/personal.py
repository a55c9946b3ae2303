"""`fl-client personal`: this device's own model of a run whose product is personal, made where its local state lies and signed
by the device: HyperFL generates it from embedding and head, Bristle keeps a head behind a frozen network.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np

from edgehold.client import identity, received
from edgehold.client.config import Home, call, load_config
from edgehold.client.keep import Keep
from edgehold.core import handover, onnx_parity
from edgehold.core.errors import ConfigError, ModelRefused, Stale
from edgehold.core.handing import network_of
from edgehold.core.handover import Bundle, Port
from edgehold.core.onnx_graphs import HEAD
from edgehold.core.onnx_run import Graph
from edgehold.core.onnx_splice import spliced, without
from edgehold.core.task import Task
from edgehold.core.vectors import FloatArray
from edgehold.defenses import registry
from edgehold.defenses.hyperfl import handed

Made: TypeAlias = tuple[FloatArray, bytes | None]
"""Dense weights, and the graph with them where it can be made here without PyTorch and `onnx`."""


def personal(source: Path, home: Path, task: str, out: Path) -> Bundle:
    """Write the folder `out` from what the server handed over. task: of client.toml, with which it was trained.

    Local state never leaves the device; the folder holds what comes of it, which is this device's alone.
    """
    places = Home(home)
    credentials = identity.load(places.identity)
    bundle = received.proved(source, credentials)
    said = bundle.manifest
    if said.method not in _MAKERS:
        raise ModelRefused(f"{source}: a {said.method} model, the same for all devices; deploy it as it is")
    table = load_config(places.config).tasks.get(task)
    if table is None:
        raise ConfigError(f"{places.config} has no [tasks.{task}]; name the task the run was trained with", field="task")
    made = call(table.task, table.options, f"tasks.{task}.task")
    weights, graph = _MAKERS[said.method](bundle, made, _kept(places, said.method, said.run, said.round))
    network = network_of(made, weights, graph)
    parity = onnx_parity.certify(network, network.onnx)
    run = Graph(network.onnx, "the generated graph")
    check, shape = onnx_parity.check(network, run)
    manifest = msgspec.structs.replace(
        said, signer=f"device:{credentials.client_id}", exported_s=round(time.time(), 3),
        weights_sha256=hashlib.sha256(np.ascontiguousarray(weights, dtype="<f4").tobytes()).hexdigest(), kind="network",
        form="onnx", opset=said.opset, input=run.takes, output=Port(run.output, run.output_dtype, shape), check=check,
        classes=network.classes,
    )  # fmt: skip
    files = {
        manifest.model: network.onnx, handover.PARITY: msgspec.json.format(msgspec.json.encode(parity), indent=1)
    }  # fmt: skip
    return handover.write(out, manifest, files, credentials.signing_key)


def _generated(bundle: Bundle, task: Task, local: Any) -> Made:
    hyper = handed.decode(bundle.model)
    if task.schema != hyper.header.schema():
        raise ModelRefused("this hypernetwork makes another model than the task's here; has its configuration changed?")
    weights = hyper.dense(local, task.initial(hyper.header.seed))
    return weights, hyper.onnx(weights)


def _headed(bundle: Bundle, task: Task, local: Any) -> Made:
    """The server's graph with this device's head in place of the mean one."""
    if bundle.manifest.numbers != "float32" or bundle.manifest.form != "onnx":
        raise ModelRefused("a head is put into a float32 graph; ask for an export without --int8")
    if local.kept.shape != task.schema.tensors[0].shape:
        raise ModelRefused(f"this device keeps a head of {list(local.kept.shape)}; its task now has another")
    graph = spliced(without(bundle.model, HEAD), [(HEAD, local.kept.shape, local.kept)])
    return np.asarray(local.kept, dtype=np.float32).reshape(-1), graph


_MAKERS: dict[str, Callable[[Bundle, Task, Any], Made]] = {"hyperfl": _generated, "bristle": _headed}


def _kept(places: Home, method: str, run: str, number: int) -> Any:
    """What this device keeps of the run; the server's half of round n goes with the state after it."""
    if not places.keep.exists():
        raise ModelRefused(f"{places.folder}: this device has never taken part in anything, so it keeps nothing of run {run!r}")
    keep = Keep(places.keep)
    try:
        state = keep.local(run, number + 1)
    except Stale as error:
        raise ModelRefused(f"{error.message}; ask for an export of the run's newest round") from None
    finally:
        keep.close()
    if not state:
        raise ModelRefused(
            f"{places.folder}: this device keeps nothing of run {run!r}: it took no part, and has no model of its own in it"
        )
    return registry.client_side(method).load(state)
