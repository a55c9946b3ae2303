"""Which model was trained on which records, and the devices' tasks that follow from it.

The pool is drawn from the training part of a data set. A target and every shadow model learn half of it; shadow models come in
pairs that share the pool between them, so that each record is in exactly half of them. A stranger learns as many records from
outside the pool: whoever tells its "members" has found something else than membership.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgehold.attacks.eval.dealt import deal_once
from edgehold.client.data.dataset import Dataset
from edgehold.client.data.deal import Deal
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import Array

if TYPE_CHECKING:
    from edgehold.core.torch_task import TorchTask

Role = Literal["target", "stranger", "shadow"]


def members(pool: int, seed: int, role: Role, index: int = 0) -> Array:
    """(pool,) bool: the records of the pool that this model learns; none of them for a stranger."""
    found = np.zeros(pool, np.bool_)
    if role == "stranger":
        return found
    first = stream(seed, "membership", role, index // 2).permutation(pool)[: pool // 2]
    found[first] = True
    return ~found if index % 2 else found


def inside(pool: int, seed: int, shadows: int) -> Array:
    """(shadows, pool) bool, for all shadow models."""
    return np.array([members(pool, seed, "shadow", index) for index in range(shadows)], np.bool_).reshape(shadows, pool)


def records(dataset: str, path: str, pool: int, seed: int, scale: str = "") -> Dataset:
    """The pool itself, in the order of `members`."""
    dealt = _whole(dataset, path, seed, scale)
    return dealt.split.train.take(_rows(dealt, pool, seed)[:pool])


def make_task(
    dataset: str, device_index: int | None, devices: int, pool: int, seed: int, role: Role, index: int = 0, path: str = "",
    scale: str = "", test_limit: int | None = None, model: str = "", net: dict[str, Any] | None = None,
) -> "TorchTask":  # fmt: skip
    """Device `device_index` of `devices`, with its even share of what this model learns; -1 or None: the test records alone."""
    from edgehold.client.data import tasks  # loads torch, which reports have no use for

    dealt = _whole(dataset, path, seed, scale)
    if device_index is None or device_index < 0:
        return tasks.task_of(dealt, dataset, None, None, "shared", test_limit, model, net)
    rows = _rows(dealt, pool, seed)
    mine = rows[pool : pool + pool // 2] if role == "stranger" else rows[:pool][members(pool, seed, role, index)]
    parts = np.array_split(stream(seed, "membership", "deal", role, index).permutation(mine), devices)
    return tasks.task_of(Deal(dealt.split, parts, None, seed), dataset, device_index, None, "none", None, model, net)


def _whole(dataset: str, path: str, seed: int, scale: str) -> Deal:
    return deal_once(dataset, path, 1, {"seed": seed, **({"scale": scale} if scale else {})})


def _rows(dealt: Deal, pool: int, seed: int) -> Array:
    there, wanted = len(dealt.split.train), pool + pool // 2
    if there < wanted:
        raise ConfigError(
            f"pool = {pool} takes {wanted} training records, half as many again for the control; there are {there}",
            field="pool",
        )
    return stream(seed, "membership", "pool").permutation(there)[:wanted]
