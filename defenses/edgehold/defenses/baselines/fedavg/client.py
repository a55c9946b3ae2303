"""FedAvg on the device: train from the global model, send the change."""

import numpy as np

from edgehold.core.contract import Facts
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.task import LocalTraining, Task
from edgehold.core.vectors import Vector
from edgehold.defenses.baselines.fedavg.state import Order, Update


class FedAvgClient:
    """Keeps nothing between rounds."""

    def begin(self, order: Order, task: Task, rng: np.random.Generator) -> None:
        """No local state."""

    def work(self, order: Order, local: None, task: Task, rng: np.random.Generator) -> tuple[None, Update, Facts]:
        """Local training, then local minus global model; `ConfigError` on a device without training records."""
        if order.model.size != task.schema.size:
            raise WrongShape(f"the order's model has {order.model.size} values; this device's has {task.schema.size}")
        if task.samples < 1:
            raise ConfigError("this device has no training records; give its task some or take it off the run")
        start = order.model.whole()
        how = order.training
        trained = task.train(
            start,
            LocalTraining(
                epochs=how.local_epochs,
                batch_size=how.batch_size,
                learning_rate=how.learning_rate,
                momentum=how.momentum,
                weight_decay=how.weight_decay,
                proximal=how.proximal,
            ),
            rng,
        )
        # Training that blew up gives infinities here; the law refuses them at the other end, where it is counted.
        with np.errstate(over="ignore", invalid="ignore"):
            delta = np.subtract(trained, start, dtype=np.float32)
        return None, Update(Vector.of(delta), task.samples), {}

    def dump(self, local: None) -> bytes:
        """No bytes."""
        return b""

    def load(self, data: bytes) -> None:
        """Inverse of `dump`."""
        if data:
            raise WrongShape(f"local state of {len(data)} bytes; FedAvg keeps none")


def client_side() -> FedAvgClient:
    """The device half."""
    return FedAvgClient()
