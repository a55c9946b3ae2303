"""A model that was handed to this device: checked, then made ready to run with onnxruntime. No PyTorch, no `onnx`."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgehold.client.identity import Credentials
from edgehold.core import handover, vote_file
from edgehold.core.errors import ModelRefused, SelfCheckFailed
from edgehold.core.handover import Bundle, Manifest
from edgehold.core.network import decided
from edgehold.core.onnx_run import Graph
from edgehold.core.vectors import Array
from edgehold.defenses import registry


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """bundle: what was proved; graph: ready to run."""

    bundle: Bundle
    graph: Graph

    @property
    def manifest(self) -> Manifest:
        """What the model is."""
        return self.bundle.manifest

    def decided(self, outputs: Array) -> Array | None:
        """See `edgehold.core.network.decided`."""
        return decided(outputs, self.manifest.classes, self.manifest.threshold)


def proved(folder: Path, credentials: Credentials) -> Bundle:
    """The folder, if the server this device is enrolled with signed it, or this device itself; see `handover.read`."""
    signers = {
        "server": credentials.server_signing_key, f"device:{credentials.client_id}": credentials.signing_key.public_key()
    }  # fmt: skip
    return handover.read(folder, credentials.federation, signers)


def ready(bundle: Bundle, where: str) -> Received:
    """The graph of a proved bundle; `ModelRefused` when it is another one than the manifest describes."""
    manifest = bundle.manifest
    graph = Graph(_onnx(bundle), where)
    for port, name, kind in (
        (manifest.input, graph.input, graph.dtype), (manifest.output, graph.output, graph.output_dtype)
    ):  # fmt: skip
        if port is None or (port.name, port.type) != (name, kind):
            raise ModelRefused(f"{where}: the graph has {name!r} of {kind}; its manifest says {msgspec.to_builtins(port)}")
    if manifest.input is None or manifest.input.shape != graph.shape:
        raise ModelRefused(
            f"{where}: the graph takes {list(graph.shape)}; its manifest says {msgspec.to_builtins(manifest.input)}"
        )
    return Received(bundle, graph)


def opened(folder: Path, credentials: Credentials) -> Received:
    """`proved`, then `ready`."""
    return ready(proved(folder, credentials), str(folder))


def self_check(model: Received) -> float:
    """The largest difference from what the manifest says of drawn inputs; `SelfCheckFailed` where it is too large."""
    check, port = model.manifest.check, model.manifest.input
    if check is None or port is None:
        raise SelfCheckFailed(f"{model.graph.where}: its manifest has no inputs to check it with; ask for another export")
    found = handover.differ(check, model.graph(check.inputs(port)))
    if not found <= check.tolerance:
        raise SelfCheckFailed(
            f"{model.graph.where}: outputs of {check.records} drawn inputs are off by {found:.3g}; at most "
            f"{check.tolerance:.3g} is allowed. This device's onnxruntime computes something else than the exporting server's: "
            "update it, or ask for an export with --format onnx and without --int8"
        )
    return found


def _onnx(bundle: Bundle) -> bytes:
    manifest = bundle.manifest
    if manifest.form == "onnx":
        return bundle.model
    if manifest.form == "vote":
        vote = vote_file.decode(bundle.model, lambda method: _draw(method, manifest))
        return vote.onnx(_draw(vote.header.method, manifest))
    raise ModelRefused(
        "this is a hypernetwork, which becomes a model only with what this device keeps to itself: make its own one with "
        "`fl-client personal FOLDER --task NAME`"
    )


def _draw(method: str, manifest: Manifest) -> vote_file.Draw:
    if method != manifest.method:
        raise ModelRefused(f"the vote is one of {method[:64]!r}; its manifest says {manifest.method!r}")
    found: vote_file.Draw = registry.vote(method).draw
    return found


def columns_check(manifest: Manifest, names: tuple[str, ...], whose: str) -> None:
    """`ModelRefused` where these are not the model's columns in their order; nothing where either has no names."""
    if manifest.columns and names and names != manifest.columns:
        at = next((at for at, (one, other) in enumerate(zip(names, manifest.columns, strict=False)) if one != other), None)
        what = f"{len(names)} of them" if at is None else f"{names[at]!r} at place {at + 1}"
        said = f"{len(manifest.columns)}" if at is None else f"{manifest.columns[at]!r}"
        raise ModelRefused(f"{whose}: other columns than the model's: {what}, expected {said}")


def labelled(model: Received, decision: Array | None) -> list[str | bool | None]:
    """Names of what was decided, one per record."""
    if decision is None:
        return []
    if model.manifest.threshold is not None:
        return [bool(one) for one in decision]
    classes = model.manifest.classes
    return [classes[int(one)] if np.ndim(one) == 0 and int(one) < len(classes) else str(one) for one in decision]
