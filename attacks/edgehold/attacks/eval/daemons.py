"""A reproduction's plan over real daemons: one server and a process per client on loopback, with mutual TLS."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgehold.attacks.testbed import Federation
from edgehold.core.errors import FlError
from edgehold.proto.v1.admin_pb2 import RunInfo
from edgehold.server import engine

TASK = "edgehold.attacks.eval.data:make_task"
NAME = "reproduction"
"""The task's name in plans."""
_START_S = 120.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def names(clients: int) -> tuple[str, ...]:
    """Names of so many clients: those of the engine's virtual ones, whose random streams they decide."""
    return tuple(engine.VirtualFleet(TASK, {}, clients))


def federated(
    folder: Path,
    plan: str,
    dealt: Mapping[str, Any],
    clients: int,
    adversaries: Mapping[str, tuple[str, Mapping[str, Any]]],
    budgets: Mapping[str, tuple[float, float]] | None = None,
) -> RunInfo:
    """The finished run; `FlError` when it did not finish. dealt: arguments of `TASK`; adversaries: by client; budgets: of the
    task's data, on every device.
    """
    options = {**dealt, "devices": clients}
    with Federation(folder, tasks={NAME: (TASK, options | {"device_index": -1})}) as bed:
        bed.start_server(_ONE_THREAD)
        for index, client in enumerate(names(clients)):
            mine = {NAME: (TASK, options | {"device_index": index})}
            bed.add_client(client, mine, adversaries.get(client), budgets)
            bed.start_client(client, _ONE_THREAD)
        bed.wait_connected(clients, _START_S)
        info = bed.run(plan)
    if info.state != "finished":
        raise FlError(f"run {info.run} is {info.state}: {info.error}")
    return info
