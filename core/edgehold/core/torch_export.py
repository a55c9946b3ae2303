"""A trained PyTorch network without its head as one ONNX file, for devices that have no PyTorch (extra `edgehold[export]`)."""

import copy
import hashlib
import warnings
from pathlib import Path

import torch
from torch import nn

from edgehold.core.errors import ConfigError


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself; what it gives is held against PyTorch in the tests
        program = torch.onnx.export(
            cut, (records,), dynamo=True, input_names=["records"], output_names=["features"], verbose=False,
            dynamic_shapes=({0: torch.export.Dim("count", min=1)},),
        )  # fmt: skip
    if program is None:
        raise ConfigError("PyTorch could not export this network to ONNX", field="head")
    program.save(str(path), external_data=False)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without(module: nn.Module, head: str) -> nn.Module:
    names = [name for name, part in module.named_modules() if name and (name == head if head else isinstance(part, nn.Linear))]
    if not names:
        known = ", ".join(name for name, _ in module.named_children()) or "none"
        wanted = f"part {head!r}" if head else "linear layer to leave out"
        raise ConfigError(f"this network has no {wanted}; its parts: {known}", field="head")
    parent, _, last = names[-1].rpartition(".")
    setattr(module.get_submodule(parent), last, nn.Identity())
    return module
