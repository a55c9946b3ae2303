"""Tasks from data sets, for PyTorch.

In a device's configuration: task = "edgehold.client.data.tasks:make_task", options = { dataset = "fashion-mnist",
path = "/data/fashion-mnist", device_index = 3, devices = 20, partition = "dirichlet", alpha = 0.3, model = "lenet" }.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgehold.client.data.catalogue import DATASETS
from edgehold.client.data.dataset import Dataset
from edgehold.client.data.deal import Deal, deal
from edgehold.client.data.names import one_of
from edgehold.client.models import make_model
from edgehold.core.torch_task import TorchTask

Metric = Callable[[Tensor, Tensor], float]


def make_task(
    dataset: str,
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
    model: str = "",
    net: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> TorchTask:
    """Device `device_index` of `devices` (from 0); -1 or None: no training data, only the whole test set.

    partition: "iid", "dirichlet" (alpha), "quantity" (alpha), "shards" (shards per device), "one-class", "groups".
    limit, test_limit: at most so many records. test: "shared" (every device has the whole test set), "own" (test records
    dealt like the training records) or "none". net: options of the model; data: options of the loader. seed: of split and
    partition, to be the same on every device.
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
    return task_of(dealt, dataset, device_index, limit, test, test_limit, model, net, data, device)


def task_of(
    dealt: Deal,
    dataset: str,
    device_index: int | None,
    limit: int | None = None,
    test: str = "shared",
    test_limit: int | None = None,
    model: str = "",
    net: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> TorchTask:
    """One device's task from a deal: for a process that plays many devices and loads once. Arguments as in `make_task`."""
    server = device_index is None or device_index == -1
    held = None if test == "none" and not server else dealt.test(None if server else device_index, test_limit)
    bare = bare_task(dealt, dataset, model, net, data, device)
    mine = None if device_index is None or device_index == -1 else dealt.train(device_index, limit)
    return bare.with_records(pair(dealt, mine), pair(dealt, held))


def bare_task(
    dealt: Deal,
    dataset: str,
    model: str = "",
    net: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> TorchTask:
    """A task without records, for `TorchTask.with_records`: arguments as in `make_task`."""
    whole = dealt.split.train
    name, options = model or DATASETS[dataset].model, dict(net or {})
    if name == "bag-of-words" and "buckets" in (data or {}):
        options.setdefault("buckets", (data or {})["buckets"])
    loss, metrics = _judged(whole, DATASETS[dataset].skewed)
    outputs, shape = max(1, len(whole.classes)), whole.shape
    return TorchTask(
        lambda: make_model(name, shape, outputs, **options), None, None, loss, metrics, device, tuple(whole.classes)
    )


def pair(dealt: Deal, records: Dataset | None) -> tuple[Tensor, Tensor] | None:
    """Inputs and targets of records of a deal, as its tasks take them; None without any."""
    if records is None or not len(records):
        return None
    if records.classes:
        return torch.from_numpy(records.x), torch.from_numpy(records.y)
    shift, width = _measure(dealt.split.train)
    return torch.from_numpy(records.x), torch.from_numpy(((records.y - shift) / width).astype("float32"))


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of records whose highest score is at the right class."""
    return float((outputs.argmax(1) == targets).double().mean())


def balanced_accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Mean over the classes present of the share found of each."""
    right = (outputs.argmax(1) == targets).double()
    return float(torch.stack([right[targets == label].mean() for label in sorted(set(targets.tolist()))]).mean())


def _measure(whole: Dataset) -> tuple[float, float]:
    """Shift and width of the target: numbers are learnt standardised and reported in their own unit."""
    return float(whole.y.mean()), float(whole.y.std()) or 1.0


def _judged(whole: Dataset, skewed: bool) -> tuple[Callable[[Tensor, Tensor], Tensor], dict[str, Metric]]:
    """Loss and metrics."""
    if not whole.classes:
        _, width = _measure(whole)
        return _square, {"mae": lambda o, t: width * float((o[:, 0] - t).abs().double().mean())}
    if whole.y.ndim == 2:
        return _next_symbol, {"accuracy": lambda o, t: accuracy(o.flatten(0, 1), t.flatten())}
    metrics: dict[str, Metric] = {"accuracy": accuracy}
    return nn.functional.cross_entropy, metrics | ({"balanced_accuracy": balanced_accuracy} if skewed else {})


def _square(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs[:, 0], targets)


def _next_symbol(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())
