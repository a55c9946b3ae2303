"""Tasks of reference data for processes that play many devices: a data set is loaded, checked and dealt once per process.

Arguments are those of `edgehold.client.data.tasks:make_task`; virtual clients carry no test data, the server's copy does.
"""

from typing import Any

from edgehold.attacks.eval.dealt import deal_once
from edgehold.client.data import tasks
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
    return tasks.task_of(dealt, dataset, device_index % owners, limit, "none", None, model, net, how.get("data"))
