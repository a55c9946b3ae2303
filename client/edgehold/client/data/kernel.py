"""Tasks for FLORAL: a linear head over public features of a table's records. No PyTorch.

In a device's configuration: task = "edgehold.client.data.kernel:make_task", options = { dataset = "digits", device_index = 0,
devices = 8, gamma = 0.1, count = 512 }. The plan's [method] names the same features; a side with others is told so by name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.client.data.catalogue import DATASETS
from edgehold.client.data.dataset import Array, Dataset
from edgehold.client.data.deal import Deal, class_labels, deal
from edgehold.client.data.names import one_of
from edgehold.core.errors import ConfigError
from edgehold.core.tables import Records
from edgehold.defenses.floral.features import Features, Fourier, Nystrom
from edgehold.defenses.floral.task import KernelTask, kernel_task


def make_task(
    dataset: str = "digits",
    path: str = "",
    device_index: int | None = None,
    devices: int = 1,
    partition: str = "iid",
    alpha: float = 1.0,
    shards: int = 2,
    min_records: int = 1,
    seed: int = 0,
    limit: int | None = None,
    test: str = "shared",
    test_limit: int | None = None,
    scale: str = "",
    verify: bool = True,
    data: Mapping[str, Any] | None = None,
    positive: Sequence[str] = (),
    features: str = "fourier",
    gamma: float = 0.1,
    count: int = 512,
    feature_seed: int = 0,
    landmarks: str = "",
) -> KernelTask:
    """Device `device_index` of `devices` (from 0); -1 or None: no training data, only the whole test set.

    Arguments up to `data` as in `edgehold.client.data.tasks:make_task`. positive: names of the classes that are class 1 of two;
    () for the classes as they are. features, gamma, count, feature_seed: as in the plan. landmarks: with "nystrom", a .npy file
    of public records, (count, d), the same on every device and on the server.
    """
    one_of("test", test, ("shared", "own", "none"))
    dealt = deal(
        dataset,
        path,
        devices=devices,
        partition=partition,
        alpha=alpha,
        shards=shards,
        min_records=min_records,
        own_tests=test == "own",
        scale=scale,
        seed=seed,
        verify=verify,
        data=data,
    )
    inputs = int(np.prod(dealt.split.train.shape))
    mapped = features_of(features, inputs, gamma, count, feature_seed, landmarks)
    return task_of(dealt, dataset, device_index, mapped, positive, limit, test, test_limit)


def task_of(
    dealt: Deal,
    dataset: str,
    device_index: int | None,
    mapped: Features,
    positive: Sequence[str] = (),
    limit: int | None = None,
    test: str = "shared",
    test_limit: int | None = None,
) -> KernelTask:
    """One device's task from a deal, for a process that plays many devices. Arguments as in `make_task`."""
    whole = dealt.split.train
    if class_labels(whole) is None or whole.raw.dtype == np.int64:
        raise ConfigError(
            f"dataset = {dataset!r}: FLORAL separates classes by numbers; choose a table with classes", field="dataset"
        )
    for name in positive:
        one_of("positive", name, whole.classes)
    if positive and len(set(positive)) == len(whole.classes):
        raise ConfigError("positive names every class; leave out those of class 0", field="positive")
    server = device_index is None or device_index == -1
    mine = None if device_index is None or device_index == -1 else dealt.train(device_index, limit)
    held = None if test == "none" and not server else dealt.test(None if server else device_index, test_limit)
    classes = 2 if positive else len(whole.classes)
    return kernel_task(mapped, classes, _records(mine, positive), _records(held, positive), DATASETS[dataset].skewed)


def features_of(kind: str, inputs: int, gamma: float, count: int, seed: int, landmarks: str = "") -> Features:
    """The features that options name; `ConfigError` for those that cannot be."""
    one_of("features", kind, ("fourier", "nystrom"))
    if not 0 < gamma < np.inf:
        raise ConfigError(f"gamma = {gamma}; it must be above 0", field="gamma")
    if count < 1:
        raise ConfigError(f"count = {count}; at least one feature is needed", field="count")
    if kind == "fourier":
        if landmarks:
            raise ConfigError('landmarks belong to features = "nystrom"; leave them out', field="landmarks")
        return Fourier(inputs, float(gamma), count, seed)
    if not landmarks:
        raise ConfigError('features = "nystrom" needs landmarks, a .npy file of public records', field="landmarks")
    return Nystrom(_landmarks(Path(landmarks), count, inputs), float(gamma))


def _landmarks(path: Path, count: int, inputs: int) -> Array:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no landmarks can be read: {error}", field="landmarks") from None
    if found.shape != (count, inputs) or found.dtype.kind not in "fiu" or not np.isfinite(found).all():
        raise ConfigError(
            f"{path}: landmarks of shape {found.shape} and type {found.dtype}; expected ({count}, {inputs}) finite numbers",
            field="landmarks",
        )
    return np.asarray(found, dtype=np.float64)


def _records(part: Dataset | None, positive: Sequence[str]) -> Records | None:
    if part is None or not len(part):
        return None
    y = part.y
    if positive:
        y = np.isin(y, [part.classes.index(name) for name in positive]).astype(np.int64)
    return Records(part.x.reshape(len(part), -1), y, part.features, ("rest", "+".join(positive)) if positive else part.classes)
