"""A trained PyTorch network, or what stands before its head, as ONNX for devices that have no PyTorch (`edgehold[export]`)."""

import copy
import hashlib
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgehold.core.errors import ConfigError
from edgehold.core.network import Network
from edgehold.core.onnx_graphs import SCORES
from edgehold.core.onnx_run import BATCH
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array, FloatArray


def export_backbone(module: nn.Module, shape: tuple[int, ...], path: Path, head: str = "") -> str:
    """Write what stands before the head and return the file's SHA-256, which every device should be given.

    shape: of one record; the number of records stays free. head: dotted name of the part left out, with its inputs as outcome;
    "": the last linear layer. The network is exported as it evaluates (no dropout, norms with their running means).
    `ConfigError` when there is no such part, or when the outcome differs for one record and for many.
    """
    cut = _without(copy.deepcopy(module).cpu().eval(), head)
    records = torch.rand((3, *shape))
    try:
        with torch.no_grad():
            found, single = cut(records), cut(records[:1])
    except RuntimeError as error:
        raise ConfigError(
            f"without its head, or on records of {list(shape)}, this network does not run: {error}; leave out its last part",
            field="head",
        ) from None
    if found.ndim < 2 or len(found) != 3 or not torch.allclose(found[:1], single, atol=1e-5):
        raise ConfigError(
            f"features of shape {list(found.shape)} for 3 records of {list(shape)}, or not the same for one of them alone; a "
            "backbone gives each record features of its own",
            field="head",
        )
    path.write_bytes(_graph(cut, records, "features"))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def network(task: TorchTask, weights: FloatArray, graph: bytes | None = None) -> Network:
    """The task's model under these weights, (schema.size,) float32, as it evaluates. Every parameter keeps its name and shape.

    graph: the model as a graph, where it is there already.

    `ConfigError` when there are no records that say what the model takes, or when PyTorch cannot export it.
    """
    shape, kind = task.record()
    task.load(weights)
    module = copy.deepcopy(task.module).cpu().eval()
    sample = torch.zeros((3, *shape), dtype=kind) if kind == torch.int64 else torch.rand((3, *shape)).to(kind)
    held = task.test
    inputs = (
        held[0].cpu().numpy() if held is not None else np.zeros((0, *shape), np.int64 if kind == torch.int64 else np.float32)
    )

    def reference(records: Array) -> Array:
        with torch.no_grad():
            parts = torch.split(torch.from_numpy(np.ascontiguousarray(records)), BATCH)
            return torch.cat([module(part) for part in parts]).numpy()

    def judge(outputs: Array) -> Mapping[str, float]:
        assert held is not None
        found, targets = torch.from_numpy(np.ascontiguousarray(outputs)), held[1][: len(outputs)].cpu()
        return {name: float(metric(found, targets)) for name, metric in task.metrics.items()}

    classes: tuple[str, ...] = ()
    if held is not None and held[1].dtype == torch.int64:
        classes = task.classes or tuple(str(number) for number in range(int(reference(inputs[:1]).shape[-1])))
    return Network(
        _graph(module, sample, SCORES) if graph is None else graph,
        inputs,
        reference,
        judge if held is not None else None,
        classes,
        library="torch",
    )


def _graph(module: nn.Module, sample: torch.Tensor, output: str) -> bytes:
    """The graph of a module that evaluates; the first axis of the one input stays free. sample: a few records."""
    from edgehold.core.onnx_graphs import INPUT, clean

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses a library that these networks have no use for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself; what it gives is held against PyTorch
        try:
            program = torch.onnx.export(
                module, (sample,), dynamo=True, input_names=[INPUT], output_names=[output], verbose=False,
                dynamic_shapes=({0: torch.export.Dim("count", min=1)},),
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            raise ConfigError(
                f"PyTorch cannot export this network to ONNX: {str(error).splitlines()[0]}; use layers that the exporter "
                "knows, without branches on values",
                field="run.task",
            ) from None
    if program is None:
        raise ConfigError("PyTorch could not export this network to ONNX", field="head")
    return clean(program.model_proto)


def _without(module: nn.Module, head: str) -> nn.Module:
    names = [name for name, part in module.named_modules() if name and (name == head if head else isinstance(part, nn.Linear))]
    if not names:
        known = ", ".join(name for name, _ in module.named_children()) or "none"
        wanted = f"part {head!r}" if head else "linear layer to leave out"
        raise ConfigError(f"this network has no {wanted}; its parts: {known}", field="head")
    parent, _, last = names[-1].rpartition(".")
    setattr(module.get_submodule(parent), last, nn.Identity())
    return module
