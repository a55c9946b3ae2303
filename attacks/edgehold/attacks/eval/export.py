"""A model file of a run becomes the frozen backbone of another: PyTorch in, ONNX out."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.server.rounds.evaluator import load_task
from edgehold.server.store import weights_file
from edgehold.server.store.blobs import BlobStore


def export(entry: str, options: Mapping[str, Any], weights: Path, head: str, out: Path) -> dict[str, Any]:
    """Write the task's model with these weights, without its head, to `out`; {"sha256": .., "features": ..}.

    entry, options: of a task of PyTorch that has records (device -1: test records). weights: a safetensors file. head: dotted
    name of the part left out, "": the last linear layer. `ConfigError` says what does not fit.
    """
    task: Any = load_task(entry, dict(options))
    if not hasattr(task, "module"):
        raise ConfigError(f"{entry} makes a {type(task).__name__}; only models of PyTorch are exported", field="task")
    from edgehold.client.data.onnx_features import Backbone
    from edgehold.core.torch_export import export_backbone  # loads torch, as the task has done already

    if not weights.is_file():
        raise ConfigError(f"{weights}: no such file", field="weights")
    with TemporaryDirectory(prefix="edgehold-export-") as folder:
        schema, blob = weights_file.read(weights, BlobStore(Path(folder)))
        values = np.frombuffer(blob.read(0, blob.size), dtype="<f4").copy()
    if schema != task.schema:
        raise ConfigError(f"{weights}: its tensors are not those of this task's model", field="weights")
    shape, kind = task.record()
    if not kind.is_floating_point:
        raise ConfigError(f"{entry}: records of {kind}; a backbone takes float32 records", field="task")
    module = task.model()
    named = dict(module.named_parameters())
    for name, found in schema.unflatten(values).items():
        named[name].data.copy_(cast(Any, named[name]).data.new_tensor(found))
    digest = export_backbone(module, shape, out, head)
    features = Backbone.open(out, digest)(np.zeros((1, *shape), np.float32))
    return {"file": str(out), "sha256": digest, "features": int(features.shape[1])}
