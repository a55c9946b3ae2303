"""The reference task: handwritten digits of 8 x 8 pixels, 1797 records that come with scikit-learn; nothing is downloaded.

In a device's configuration: task = "edgehold.client.data.digits:make_task", options = {device_index = 0, devices = 8}.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from edgehold.client.data.partition import dirichlet
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining
from edgehold.core.torch_task import TorchTask

CLASSES = 10
TEST_RECORDS = 360


def make_task(device_index: int | None, devices: int, alpha: float = 1.0, seed: int = 0, hidden: int = 64) -> TorchTask:
    """Device `device_index` of `devices` (from 0); -1 or None: no training data, only the test set.

    alpha: unevenness of the split (`partition.dirichlet`); seed: of the train/test split and of the partition, the same on
    every device; hidden: width of the one hidden layer.
    """
    train, test = _split(seed)
    if device_index is None or device_index == -1:
        return _task(None, test, hidden)
    if not 0 <= device_index < devices:
        raise ConfigError(f"device_index = {device_index}; allowed: 0 to {devices - 1}, or -1 for none")
    mine = dirichlet(train[1], devices, alpha, seed, min_records=8)[device_index]
    return _task((train[0][mine], train[1][mine]), test, hidden)


_CENTRAL = LocalTraining(epochs=30, learning_rate=0.1, momentum=0.9)


def central_accuracy(how: LocalTraining | None = None, seed: int = 0, hidden: int = 64) -> float:
    """Test accuracy of the same model trained on all training records in one place: what federation is measured against."""
    train, test = _split(seed)
    task = _task(train, test, hidden)
    weights = task.train(task.initial(seed), how or _CENTRAL, stream(seed, "central"))
    return task.evaluate(weights)["accuracy"]


def _task(train: tuple[Any, Any] | None, test: tuple[Any, Any], hidden: int) -> TorchTask:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))

    return TorchTask(model, train, test, nn.functional.cross_entropy, {"accuracy": _accuracy})


def _accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((outputs.argmax(1) == targets).double().mean())


def _split(seed: int) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """((1437, 64) float32 in 0..1, (1437,) int64) for training and as much of the remaining 360 for testing."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ConfigError("the digits task needs scikit-learn; install edgehold[eval]") from None
    pixels, labels = load_digits(return_X_y=True)
    order = stream(seed, "digits", "split").permutation(len(labels))
    pixels, labels = (pixels[order] / 16.0).astype(np.float32), labels[order].astype(np.int64)
    return (pixels[TEST_RECORDS:], labels[TEST_RECORDS:]), (pixels[:TEST_RECORDS], labels[:TEST_RECORDS])
