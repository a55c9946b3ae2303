"""`fl-client personal`: this device's own model of a HyperFL run, made where its embedding and head lie, and signed by it."""

import hashlib
import time
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from edgehold.client import identity, received
from edgehold.client.config import Home, call, load_config
from edgehold.client.keep import Keep
from edgehold.core import handover, onnx_parity
from edgehold.core.errors import ConfigError, ModelRefused, Stale
from edgehold.core.handing import network_of
from edgehold.core.handover import Bundle, Port
from edgehold.core.onnx_run import Graph
from edgehold.defenses import registry
from edgehold.defenses.hyperfl import handed
from edgehold.defenses.hyperfl.state import Local


def personal(source: Path, home: Path, task: str, out: Path) -> Bundle:
    """Write the folder `out` from a hypernetwork that the server handed over. task: of client.toml, with which it was trained.

    Neither embedding nor head leaves the device; the folder holds what they generate, which is this device's alone.
    """
    places = Home(home)
    credentials = identity.load(places.identity)
    bundle = received.proved(source, credentials)
    said = bundle.manifest
    if said.kind != "hypernetwork":
        raise ModelRefused(f"{source}: a {said.method} model, the same for all devices; deploy it as it is")
    table = load_config(places.config).tasks.get(task)
    if table is None:
        raise ConfigError(f"{places.config} has no [tasks.{task}]; name the task the run was trained with", field="task")
    made = call(table.task, table.options, f"tasks.{task}.task")
    hyper = handed.decode(bundle.model)
    if made.schema != hyper.header.schema():
        raise ModelRefused(f"{source}: made for another model than that of task {task!r} here; has its configuration changed?")
    weights = hyper.dense(_kept(places, said.run, said.round), made.initial(hyper.header.seed))
    network = network_of(made, weights, hyper.onnx(weights))
    parity = onnx_parity.certify(network, network.onnx)
    run = Graph(network.onnx, "the generated graph")
    check, shape = onnx_parity.check(network, run)
    manifest = msgspec.structs.replace(
        said, signer=f"device:{credentials.client_id}", exported_s=round(time.time(), 3), software=version("edgehold"),
        weights_sha256=hashlib.sha256(np.ascontiguousarray(weights, dtype="<f4").tobytes()).hexdigest(), kind="network",
        form="onnx", opset=said.opset, input=run.takes, output=Port(run.output, run.output_dtype, shape), check=check,
        classes=network.classes,
    )  # fmt: skip
    files = {
        manifest.model: network.onnx, handover.PARITY: msgspec.json.format(msgspec.json.encode(parity), indent=1)
    }  # fmt: skip
    return handover.write(out, manifest, files, credentials.signing_key)


def _kept(places: Home, run: str, number: int) -> Local:
    """What this device keeps of the run; the hypernetwork of round n goes with the state after it."""
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
    local: Local = registry.client_side("hyperfl").load(state)
    return local
