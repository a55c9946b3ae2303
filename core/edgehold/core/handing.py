"""From a task and weights to a graph, whatever library the task is made with. Loads PyTorch only where the task has done so."""

from typing import Any, cast

from edgehold.core.errors import ConfigError
from edgehold.core.network import Network
from edgehold.core.tables import TableTask
from edgehold.core.task import Task
from edgehold.core.vectors import FloatArray


def network_of(task: Task, weights: FloatArray, graph: bytes | None = None) -> Network:
    """The task's model under these weights, (schema.size,) float32; `ConfigError` when the task cannot say what it is.

    graph: of that model, where it is there already and need not be made: nothing but NumPy (or PyTorch) is needed then.
    """
    if hasattr(task, "module"):
        from edgehold.core import torch_export

        return torch_export.network(cast(Any, task), weights, graph)
    if isinstance(task, TableTask) and task.network is not None:
        return task.network(weights, graph)
    raise ConfigError(
        f"a {type(task).__name__} does not say how its model becomes a graph; give `TableTask` a `network`, or use a "
        "`TorchTask`",
        field="run.task",
    )
