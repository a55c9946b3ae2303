"""Virtual clients by the thousand: each one's task is made when it is asked for, and forgotten again."""

import hashlib
import inspect
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from edgehold.core.errors import ConfigError
from edgehold.core.task import Task
from edgehold.server.rounds.evaluator import load_task

CACHE = 256
"""Tasks that stand in memory at once, per process."""


class VirtualFleet(Mapping[str, Task]):
    """Client id -> its task, made by the entry point `package.module:function` with `device_index` (from 0) and `devices`.

    options: further arguments, the same for every client; cache: tasks kept. Picklable: worker processes make their own tasks.
    Making a task must be deterministic, and cheap beside a round of its training (load a data set once per process).
    """

    def __init__(self, entry: str, options: Mapping[str, Any], clients: int, cache: int = CACHE) -> None:
        if clients < 1:
            raise ConfigError(f"clients = {clients}; at least 1 is needed")
        if not set(options).isdisjoint({"device_index", "devices"}):
            raise ConfigError("device_index and devices are set for each virtual client; leave them out of the options")
        self.entry, self.options, self._cache = entry, dict(options), cache
        width = max(4, len(str(clients - 1)))
        self._index = {f"c{number:0{width}}": number for number in range(clients)}
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._takes: set[str] | None = None

    def __getitem__(self, client: str) -> Task:
        if client in self._tasks:
            self._tasks.move_to_end(client)
            return self._tasks[client]
        task = self._tasks[client] = self._make(self._index[client])
        while len(self._tasks) > self._cache:
            self._tasks.popitem(last=False)
        return task

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, client: object) -> bool:
        return client in self._index

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tasks": OrderedDict()}

    def own_copy(self) -> Task:
        """The server's copy, which has the test data and trains on nothing: the task of device -1."""
        return self._make(-1)

    @property
    def digest(self) -> str:
        """SHA-256 of what the fleet is made of."""
        return hashlib.sha256(json.dumps([self.entry, self.options, len(self)], sort_keys=True).encode()).hexdigest()

    def _make(self, index: int) -> Task:
        if self._takes is None:
            self._takes = _arguments(self.entry)
        more = {"device_index": index, "devices": len(self)}
        return load_task(self.entry, self.options | {name: more[name] for name in self._takes})


def _arguments(entry: str) -> set[str]:
    """Which of the two the entry point has; both when that cannot be told."""
    both = {"device_index", "devices"}
    module, _, function = entry.partition(":")
    try:
        found = inspect.signature(getattr(import_module(module), function)).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return both  # load_task says what is wrong
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in found.values())
    return both if open_ended else both & set(found)
