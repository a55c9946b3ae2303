"""Tasks for FLORAL whose labels may be poisoned, for studies and tests; a data set is loaded, checked and dealt once per
process.

On a device of a test bed: task = "edgehold.attacks.eval.heads:make_task". Virtual clients carry no test data, the server's
copy does.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgehold.attacks.eval.dealt import deal_once
from edgehold.attacks.poisoning.catalogue import Scene, poisoned
from edgehold.client.data import kernel
from edgehold.defenses.floral.features import head_of
from edgehold.defenses.floral.task import KernelTask


def make_task(
    dataset: str,
    device_index: int | None,
    devices: int,
    path: str = "",
    limit: int | None = None,
    test_limit: int | None = None,
    positive: Sequence[str] = (),
    features: str = "fourier",
    gamma: float = 0.1,
    count: int = 512,
    feature_seed: int = 0,
    landmarks: str = "",
    poison: str = "",
    share: float = 0.0,
    victims: int | None = None,
    **how: Any,
) -> KernelTask:
    """Device `device_index` of `devices`; -1 or None: the test set alone. Arguments as in
    `edgehold.client.data.kernel:make_task`.

    poison: a name of `edgehold.attacks.poisoning.catalogue`, "" for nobody; share: of the labels of each of the first `victims`
    devices (None: of all). The attacker trains the machine with the task's gamma and C = 10 on the device's clean labels.
    """
    dealt = deal_once(dataset, path, devices, how)
    inputs = int(np.prod(dealt.split.train.shape))
    mapped = kernel.features_of(features, inputs, gamma, count, feature_seed, landmarks)
    if device_index is None or device_index < 0:
        return kernel.task_of(dealt, dataset, None, mapped, positive, None, "shared", test_limit)
    task = kernel.task_of(dealt, dataset, device_index, mapped, positive, limit, "none")
    if not poison or (victims is not None and device_index >= victims):
        return task
    records = task.train_data
    assert records is not None
    scene = Scene(records.x, records.y, head_of(task.schema).classes, gamma)
    labels = poisoned(poison, scene, share, flips_seed(int(how.get("seed", 0)), device_index))
    return replace(task, train_data=replace(records, y=labels))


def flips_seed(seed: int, device: int) -> int:
    """Seed of one device's flips."""
    return (seed << 20) + device
