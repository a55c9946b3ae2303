"""Tasks of reference data for processes that play many devices: a data set is loaded, checked and dealt once per process.

Arguments are those of `edgehold.client.data.tasks:make_task`; virtual clients carry no test data, the server's copy does.
"""

import json
from functools import lru_cache
from typing import Any

from edgehold.client.data import tasks
from edgehold.client.data.deal import Deal, deal
from edgehold.core.errors import ConfigError
from edgehold.core.torch_task import TorchTask

_DEALT = ("partition", "alpha", "shards", "min_records", "scale", "seed", "verify", "data")


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
    if unknown := sorted(set(how) - set(_DEALT)):
        raise ConfigError(f"unknown option {unknown[0]!r}; allowed: {', '.join(_DEALT)}", field=unknown[0])
    owners = holders or devices
    dealt = _deal(dataset, path, owners, json.dumps(how, sort_keys=True))
    if device_index is None or device_index < 0:
        return tasks.task_of(dealt, dataset, None, None, "shared", test_limit, model, net, how.get("data"))
    return tasks.task_of(dealt, dataset, device_index % owners, limit, "none", None, model, net, how.get("data"))


@lru_cache(maxsize=2)
def _deal(dataset: str, path: str, devices: int, how: str) -> Deal:
    return deal(dataset, path, devices=devices, **json.loads(how))
