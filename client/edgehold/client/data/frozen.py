"""Frozen features: a device's records as a backbone that is never trained sees them, computed once. No PyTorch.

In a device's configuration: task = "edgehold.client.data.frozen:make_task", options = { dataset = "fashion-mnist",
path = "/data/fashion-mnist", device_index = 3, devices = 20, backbone = "backbone.onnx", sha256 = "..." }.
The model is a head (features, classes) without bias, which starts at zero.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgehold.client.data import onnx_features
from edgehold.client.data.catalogue import load
from edgehold.client.data.dataset import Array, Dataset, Split
from edgehold.core import onnx_graphs, table_networks
from edgehold.core.errors import ConfigError
from edgehold.core.network import Network
from edgehold.core.rng import stream
from edgehold.core.tables import Records, TableTask
from edgehold.core.vectors import FloatArray, Schema, Tensor


class Features(Protocol):
    """A network that is never trained."""

    def __call__(self, records: Array) -> FloatArray:
        """Records (n, ...) -> (n, d) float32."""

    def headed(self, head: FloatArray, shape: Sequence[int]) -> bytes:
        """An ONNX graph of this network with a linear head (d, classes) behind it. shape: of one record."""


def make_task(
    dataset: str = "digits",
    path: str = "",
    device_index: int | None = None,
    devices: int = 1,
    classes_per_device: int = 4,
    per_class: int = 5,
    held_per_class: int = 10,
    seed: int = 0,
    backbone: str = "",
    sha256: str = "",
    width: int = 256,
    verify: bool = True,
    data: Mapping[str, Any] | None = None,
) -> TableTask:
    """Device `device_index` of `devices` (from 0); -1 or None: no training data, only the whole test set.

    A device is familiar with `classes_per_device` classes in a row, from the class of its index on (0: with all). It has
    `per_class` training records of each, and holds back `held_per_class` to judge others by; nobody else has any of them.
    backbone: an ONNX file, checked against `sha256` where that is given; "": `width` random ReLU features drawn from `seed`.
    """
    features = backbone_of(dataset, path, seed, backbone, sha256, width, verify, data)
    split = split_of(dataset, path, seed, verify, _frozen(data))
    kinds = len(split.train.classes)
    if not kinds or split.train.y.ndim != 1:
        raise ConfigError(f"{dataset} has no classes; a head of classes needs some", field="dataset")
    mine = None if device_index is None or device_index == -1 else device_index
    if mine is None:
        return task_of(split, features, None, None)
    if not 0 <= mine < devices:
        raise ConfigError(f"device_index = {mine}; allowed: 0 to {devices - 1}, or -1 for none", field="device_index")
    held_classes = [in_a_row(one, classes_per_device, kinds) for one in range(devices)]
    return task_of(split, features, *rows_of(split.train.y, held_classes, mine, per_class, held_per_class, seed))


def backbone_of(
    dataset: str, path: str = "", seed: int = 0, backbone: str = "", sha256: str = "", width: int = 256,
    verify: bool = True, data: Mapping[str, Any] | None = None,
) -> Features:  # fmt: skip
    """What turns records into features. Arguments as in `make_task`."""
    if backbone:
        return onnx_features.Backbone.open(Path(backbone), sha256)
    if sha256:
        raise ConfigError("sha256 names the backbone's content, and there is no backbone; set backbone", field="sha256")
    shape = split_of(dataset, path, seed, verify, _frozen(data)).train.shape
    return RandomFeatures(int(np.prod(shape)), width, seed)


class RandomFeatures:
    """max(0, x A) with A from N(0, 2 / inputs), drawn from the seed: public, the same everywhere, trained on nothing."""

    def __init__(self, inputs: int, width: int, seed: int) -> None:
        if width < 1:
            raise ConfigError(f"width = {width}; at least 1 feature", field="width")
        drawn = stream(seed, "frozen", "features").standard_normal((inputs, width), dtype=np.float32)
        self._weights = drawn * np.float32(np.sqrt(2 / inputs))

    def __call__(self, records: Array) -> FloatArray:
        """(n, width) float32."""
        flat = records.reshape(len(records), -1).astype(np.float32)
        return np.maximum(flat @ self._weights, np.float32(0))

    def headed(self, head: FloatArray, shape: Sequence[int]) -> bytes:
        """See `Features`."""
        return onnx_graphs.random_features(self._weights, head, shape)


def in_a_row(device: int, count: int, kinds: int) -> list[int]:
    """Classes of a device: `count` in a row from the class of its index on, round the end; all of them for 0."""
    if not 0 <= count <= kinds:
        raise ConfigError(f"classes_per_device = {count}; allowed: 1 to {kinds}, or 0 for all", field="classes_per_device")
    return sorted((device + step) % kinds for step in range(count or kinds))


def rows_of(
    labels: Array, familiar: Sequence[Sequence[int]], device: int, per_class: int, held_per_class: int, seed: int
) -> tuple[Array, Array]:
    """Rows that a device trains on, and rows that it holds back. familiar: classes of every device.

    The records of a class are shuffled by seed and go to its devices in turn. `ConfigError` when they do not suffice.
    """
    if per_class < 1 or held_per_class < 0:
        raise ConfigError(f"per_class = {per_class}, held_per_class = {held_per_class}; at least 1 and 0", field="per_class")
    share = per_class + held_per_class
    train: list[Array] = []
    held: list[Array] = []
    for kind in familiar[device]:
        sharing = [one for one, kinds in enumerate(familiar) if kind in kinds]
        members = members_of(labels, kind, seed)
        if len(members) < share * len(sharing):
            raise ConfigError(
                f"class {kind} has {len(members)} records; {len(sharing)} devices need {share * len(sharing)} of them: lower "
                "per_class, held_per_class or the number of devices",
                field="per_class",
            )
        start = share * sharing.index(device)
        train.append(members[start : start + per_class])
        held.append(members[start + per_class : start + share])
    return np.concatenate(train), np.concatenate(held)


def members_of(labels: Array, kind: int, seed: int) -> Array:
    """Rows of a class in the order in which devices get them."""
    return stream(seed, "frozen", "class", kind).permutation(np.flatnonzero(labels == kind))


def task_of(split: Split, features: Features, train: Array | None, held: Array | None) -> TableTask:
    """A task over these rows of the training part, scored on the whole test part; None: without."""
    test = records_of(split.test, features)

    def some(rows: Array | None) -> Records | None:
        return records_of(split.train.take(rows), features) if rows is not None and len(rows) else None

    shape = (test.x.shape[1], len(test.classes))
    schema = Schema((Tensor("head", shape),))

    def handed(weights: FloatArray, graph: bytes | None = None) -> Network:
        graph = graph or features.headed(weights.reshape(shape), split.test.shape)
        return table_networks.head(graph, split.test.x, features, test, weights)

    zeros = np.zeros(schema.size, np.float32)
    return TableTask(schema, some(train), test, lambda seed: zeros.copy(), accuracy, some(held), network=handed)


def records_of(part: Dataset, features: Features) -> Records:
    """The features of these records."""
    return Records(features(part.x), part.y.astype(np.int64), (), part.classes)


def accuracy(weights: FloatArray, test: Records) -> dict[str, float]:
    """Share of the records whose highest score is at the right class. weights: (d * C,), rows first."""
    head = np.asarray(weights).reshape(test.x.shape[1], -1)
    return {"accuracy": float((np.argmax(test.x @ head, axis=1) == test.y).mean())}


def _frozen(data: Mapping[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((key, tuple(value) if isinstance(value, list) else value) for key, value in (data or {}).items()))


@lru_cache(maxsize=2)
def split_of(
    dataset: str, path: str = "", seed: int = 0, verify: bool = True, data: tuple[tuple[str, Any], ...] = ()
) -> Split:  # fmt: skip
    """The data set, loaded once per process."""
    return load(dataset, path, seed, verify, dict(data))
