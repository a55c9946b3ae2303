"""The reference task: handwritten digits of 8 x 8 pixels, 1797 records that come with scikit-learn; nothing is downloaded.

In a device's configuration: task = "edgehold.client.data.digits:make_task", options = {device_index = 0, devices = 8}.
"""

from edgehold.client.data import tasks
from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining
from edgehold.core.torch_task import TorchTask


def make_task(device_index: int | None, devices: int, alpha: float = 1.0, seed: int = 0, hidden: int = 64) -> TorchTask:
    """Device `device_index` of `devices` (from 0); -1 or None: no training data, only the test set.

    alpha: unevenness of the split (`partition.dirichlet`); seed: of the train/test split and of the partition, the same on
    every device; hidden: width of the one hidden layer.
    """
    return tasks.make_task(
        "digits",
        device_index=device_index,
        devices=devices,
        partition="dirichlet",
        alpha=alpha,
        min_records=8,
        seed=seed,
        net={"hidden": [hidden]},
    )


_CENTRAL = LocalTraining(epochs=30, learning_rate=0.1, momentum=0.9)


def central_accuracy(how: LocalTraining | None = None, seed: int = 0, hidden: int = 64) -> float:
    """Test accuracy of the same model trained on all training records in one place: what federation is measured against."""
    task = tasks.make_task("digits", device_index=0, seed=seed, net={"hidden": [hidden]})
    weights = task.train(task.initial(seed), how or _CENTRAL, stream(seed, "central"))
    return task.evaluate(weights)["accuracy"]
