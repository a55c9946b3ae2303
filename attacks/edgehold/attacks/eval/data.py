"""Tasks of reference data for processes that play many devices: a data set is loaded, checked and dealt once per process.

Arguments are those of `edgehold.client.data.tasks:make_task`; virtual clients carry no test data, the server's copy does.
"""

import json
import threading
from functools import lru_cache
from typing import Any

from edgehold.attacks.eval.dealt import deal_once
from edgehold.client.data import tasks
from edgehold.client.data.deal import Deal
from edgehold.core.torch_task import TorchTask


def make_task(
    dataset: str,
    device_index: int | None,
    devices: int,
    path: str = "",
    holders: int = 0,
    limit: int | None = None,
    test_limit: int | None = None,
    model: str = "",
    net: dict[str, Any] | None = None,
    **how: Any,
) -> TorchTask:
    """Device `device_index` of `devices`; -1 or None: the test set alone.

    holders: how many devices the records are dealt to (0: all); device i beyond them has the records of device i - holders,
    as a liar does that joins a federation in which everybody honest has his own.
    """
    owners = holders or devices
    dealt = deal_once(dataset, path, owners, how)
    if device_index is None or device_index < 0:
        return tasks.task_of(dealt, dataset, None, None, "shared", test_limit, model, net, how.get("data"))
    bare = _bare(_Known(dealt), dataset, model, json.dumps([net, how.get("data")], sort_keys=True))
    return bare.with_records(tasks.pair(dealt, dealt.train(device_index % owners, limit)))


class _Known:
    """A deal as a key: the same object, which is dealt once, in the same thread: two threads must not train one module."""

    def __init__(self, dealt: Deal) -> None:
        self.dealt, self._thread = dealt, threading.get_ident()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and other.dealt is self.dealt and other._thread == self._thread

    def __hash__(self) -> int:
        return hash((id(self.dealt), self._thread))


@lru_cache(maxsize=4)
def _bare(known: _Known, dataset: str, model: str, options: str) -> TorchTask:
    """The model that every virtual client of this process trains, one after the other."""
    net, data = json.loads(options)
    return tasks.bare_task(known.dealt, dataset, model, net, data)
