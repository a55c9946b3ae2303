"""The server's own copy of a task, in a process of its own: initial weights and scores, one JSON line each way.

    {"do": "initial", "task": "pkg.mod:make", "options": {}, "method": {"name": ..}, "seed": 1, "out": PATH}
        -> {"schema": [...]}
    {"do": "evaluate", "task": "pkg.mod:make", "options": {}, "weights": PATH}
        -> {"metrics": {...}}

Started before the first socket is opened and idle until asked, so that the server's process never loads a training
library and never forks beside gRPC's threads.
"""

import importlib
import json
import sys
from typing import Any

import numpy as np

from edgehold.core.config import convert
from edgehold.core.errors import ConfigError, FlError
from edgehold.core.task import Task
from edgehold.defenses import registry


def load_task(entry: str, options: dict[str, Any]) -> Task:
    """The task an entry point `package.module:function` makes; `ConfigError` when it cannot."""
    module, _, function = entry.partition(":")
    try:
        task = getattr(importlib.import_module(module), function)(**options)
    except FlError:
        raise
    except Exception as error:
        raise ConfigError(f"task {entry!r} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise ConfigError(f"task {entry!r} returned {type(task).__name__}, which is no Task (see edgehold.core.task)")
    return task


def answer(request: dict[str, Any], tasks: dict[str, Task]) -> dict[str, Any]:
    """Carry out one request."""
    key = json.dumps([request["task"], request["options"]], sort_keys=True)
    if key not in tasks:
        tasks[key] = load_task(request["task"], request["options"])
    task = tasks[key]
    if request["do"] == "initial":
        own = dict(request["method"])
        name = own.pop("name")
        settings = convert(own, registry.method(name).settings, "plan", "method")
        weights = registry.first_weights(name, settings, task, request["seed"])
        if weights.shape != (task.schema.size,):
            raise ConfigError(f"initial weights of shape {weights.shape}; the schema has {task.schema.size} values")
        weights.tofile(request["out"])
        return {"schema": json.loads(task.schema.to_json())}
    return {"metrics": task.evaluate(np.fromfile(request["weights"], dtype="<f4"))}


def main() -> None:
    """Answer requests from standard input until it ends."""
    tasks: dict[str, Task] = {}
    replies = sys.stdout
    sys.stdout = sys.stderr  # whatever a task prints must not stand among the answers
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), tasks)
        except Exception as error:
            reply = {"error": str(error) if isinstance(error, FlError) else f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
